// The device half of virtio: negotiation, life of queues, broken drivers. Source: virtio 1.2 §2.1 to §2.6, §3.
#include "hw/virtio/virtio.h"

#include <cstring>
#include <latch>

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

constinit const TypeInfo VirtioBus::type{
    .name = "virtio-bus", .doc = "Place of one virtio device.", .parent = &Bus::type, .user_creatable = false};
static Registered registered_bus{VirtioBus::type};

Result<> VirtioBus::may_plug(Device& device) {
  if (!dynamic_cast<VirtioDevice*>(&device)) return fail("Device '{}' can't go on {} bus", device.type_info().name, bus_type());
  if (!devices().empty()) return fail("Bus '{}' does not support more than one device", name());
  return {};
}

constexpr Field VirtioDevice::properties[13] = {
    field<&VirtioDevice::indirect_desc_>("indirect_desc", "Offer tables of descriptors."),
    field<&VirtioDevice::event_idx_>("event_idx", "Offer the event index, which saves kicks and interrupts."),
    field<&VirtioDevice::notify_on_empty_>("notify_on_empty", "Offer legacy drivers an interrupt for an empty queue."),
    field<&VirtioDevice::any_layout_>("any_layout", "Offer legacy drivers any arrangement of buffers."),
    field<&VirtioDevice::iommu_platform_>("iommu_platform", "The driver must use the platform's DMA addresses."),
    field<&VirtioDevice::packed_>("packed", "Offer packed rings."),
    field<&VirtioDevice::queue_reset_>("queue_reset", "Offer the reset of single queues."),
    field<&VirtioDevice::in_order_>("in_order", "Use buffers in the order in which they were made available."),
    field<&VirtioDevice::order_platform_>("x-order-platform", "Offer ordering of memory accesses as the platform has it."),
    field<&VirtioDevice::notification_data_>("x-notification-data", "Offer kicks that tell the driver's position."),
    field<&VirtioDevice::use_started_>("use-started", "Migrate whether the device was started."),
    field<&VirtioDevice::use_disabled_flag_>("use-disabled-flag", "Migrate whether the device was disabled."),
    field<&VirtioDevice::disable_legacy_check_>("x-disable-legacy-check", "Let a device without a legacy form have one."),
};
constexpr Field VirtioDevice::state[5] = {
    computed<&VirtioDevice::saved_status, &VirtioDevice::load_status>("status", "device status"),
    field<&VirtioDevice::features_>("features", "features that the driver took"),
    field<&VirtioDevice::config_generation_>("config-generation", "version of the configuration space"),
    computed<&VirtioDevice::saved_queues, &VirtioDevice::load_queues>("queues", "queues"),
    computed<&VirtioDevice::saved_chains, &VirtioDevice::load_chains>("taken", "requests under way"),
};
constinit const TypeInfo VirtioDevice::type{.name = "virtio-device",
                                            .doc = "The half of a virtio device that does not depend on the transport.",
                                            .parent = &Device::type,
                                            .properties = properties,
                                            .state = state,
                                            .user_creatable = false,
                                            .bus = "virtio-bus"};
static Registered registered{VirtioDevice::type};

VirtioDevice::~VirtioDevice() = default;

Result<> VirtioDevice::realize() {
  transport_ = static_cast<VirtioBus*>(bus())->transport;
  if (auto done = realize_virtio(); !done) return queues_.clear(), done;
  when_running_.start(machine(), [this] {
    for (auto& [n, chain] : std::exchange(again_, {})) serve_again(n, std::move(chain));
  });
  return {};
}

Task<> VirtioDevice::unrealize() {
  when_running_.stop();
  stop();
  co_await unrealize_virtio();
  co_return Result<>{};
}

VirtQueue& VirtioDevice::add_queue(u16 size) {
  ASSERT(size && size <= virtio::queue_size_limit);
  return *queues_.emplace_back(std::make_unique<VirtQueue>(*this, static_cast<u16>(queues_.size()), size));
}

// --- Negotiation

u64 VirtioDevice::offered_features() const {
  u64 f = device_features() | transport_->offered();
  const auto offer = [&](bool on, u64 bits) {
    if (on) f |= bits;
  };
  offer(indirect_desc_, virtio::indirect_desc);
  offer(event_idx_, virtio::event_idx);
  offer(notify_on_empty_, virtio::notify_on_empty);
  offer(any_layout_, virtio::any_layout);
  if (f & virtio::version_1) {
    offer(iommu_platform_, virtio::access_platform);
    offer(packed_, virtio::ring_packed);
    offer(queue_reset_, virtio::ring_reset);
    offer(in_order_, virtio::in_order);
    offer(order_platform_, virtio::order_platform);
    offer(notification_data_, virtio::notification_data);
  }
  return f;
}

void VirtioDevice::set_driver_features(u64 wanted) {
  if (status_ & virtio::features_ok) return;
  const u64 offered = offered_features();
  if (wanted & ~offered) guest_error(type_info().name, "the driver takes features {:#x} that were not offered", wanted & ~offered);
  features_ = wanted & offered;
}

u8 VirtioDevice::status() const {
  const u8 status = status_;
  return status == 0 && busy() ? virtio::needs_reset : status;
}

void VirtioDevice::set_status(u8 status) {
  if (!status) return driver_reset();
  u8 now = status_;
  const u8 fresh = status & ~now;
  status |= now & virtio::needs_reset;
  if (fresh & virtio::features_ok) {
    const bool bad = (offered_features() & virtio::access_platform && has(virtio::version_1) && !has(virtio::access_platform)) ||
                     (has(virtio::ring_packed) && !has(virtio::version_1));
    if (bad) {
      guest_error(type_info().name, "features {:#x} are not enough to go on with", features_);
      status &= ~virtio::features_ok;
    } else {
      features_set();
    }
  }
  status_ = status;
  if (fresh & virtio::driver_ok && !running() && !(status & virtio::needs_reset)) {
    if (!(status & virtio::features_ok)) features_set();  // a legacy driver
    start();
  }
  if (!(status & virtio::driver_ok) && running()) stop();
}

void VirtioDevice::start() {
  for (auto& q : queues_) q->start(dma(), features_);
  running_.store(true, std::memory_order_release);
  driver_ready();
  for (auto& q : queues_)
    if (q->started()) kick(q->index());  // requests that were there before
}

void VirtioDevice::stop() {
  again_.clear();
  if (!running_.exchange(false)) {
    for (auto& q : queues_) q->stop();
    return;
  }
  // Loops other than this thread's finish what they do; they never take the machine lock, so that waiting for them is safe.
  std::vector<EventLoop*> loops;
  for (auto& q : queues_) {
    EventLoop& loop = loop_of(q->index());
    if (&loop != &machine().main_loop() && !loop.on_this_thread() && std::ranges::find(loops, &loop) == loops.end()) loops.push_back(&loop);
  }
  std::latch passed{static_cast<std::ptrdiff_t>(loops.size())};
  for (EventLoop* loop : loops) loop->post([&] { passed.count_down(); });
  passed.wait();
  for (auto& q : queues_) q->stop();
}

void VirtioDevice::driver_reset() { reset(); }

void VirtioDevice::reset() {
  stop();
  for (auto& q : queues_) q->reset();
  status_ = 0;
  features_ = 0;
  config_generation_ = 0;
  reset_virtio();
}

void VirtioDevice::enable_queue(unsigned n) {
  VirtQueue* q = queue(n);
  if (!q || q->state.enabled) return;
  q->state.enabled = true;
  if (running()) q->start(dma(), features_), kick(n);
}

void VirtioDevice::queue_placed(unsigned n) {
  if (running() && !queues_[n]->started()) queues_[n]->start(dma(), features_), kick(n);
}

void VirtioDevice::reset_queue(unsigned n) {
  VirtQueue* q = queue(n);
  if (!q || !has(virtio::ring_reset)) return;
  const bool was_running = running();
  EventLoop& loop = loop_of(n);
  if (was_running && &loop != &machine().main_loop() && !loop.on_this_thread()) {
    std::latch passed{1};
    loop.post([&] {
      q->stop();
      passed.count_down();
    });
    passed.wait();
  }
  q->reset();
}

// --- Configuration space

u64 VirtioDevice::config_load(u64 offset, unsigned size) const {
  const usize bytes = config_bytes();
  if (offset >= bytes || size > bytes - offset) return mask_of_size(size);
  std::vector<u8> image(bytes);
  read_config(image);
  u64 value = 0;
  std::memcpy(&value, image.data() + offset, size);
  return value;
}

void VirtioDevice::config_store(u64 offset, unsigned size, u64 value) {
  const usize bytes = config_bytes();
  if (offset >= bytes || size > bytes - offset) return;
  std::vector<u8> image(bytes);
  read_config(image);
  std::memcpy(image.data() + offset, &value, size);
  write_config(image, offset, size);
}

void VirtioDevice::config_changed() {
  config_generation_++;
  if (status_ & virtio::driver_ok) transport_->config_interrupt();
}

// --- Queues at work

void VirtioDevice::kick(unsigned n) {
  if (n >= queues_.size() || !running()) return;
  if (queues_[n]->kicked.exchange(true, std::memory_order_acq_rel)) return;
  loop_of(n).post([self = Ref{this}, n] { self->run_queue(n); });
}

void VirtioDevice::run_queue(unsigned n) {
  queues_[n]->kicked.store(false, std::memory_order_release);
  if (!running() || !queues_[n]->started() || !transport_->may_dma()) return;
  memory::InsideDevice inside{&transport_->owner()};
  queue_notified(n);
}

void VirtioDevice::interrupt(VirtQueue& queue) { transport_->queue_interrupt(queue.state.vector); }

void VirtioDevice::queue_broken(u16 queue, std::string_view why) {
  guest_error(type_info().name, "queue {}: {}", queue, why);
  broken(why);
}

void VirtioDevice::broken(std::string_view why) {
  log(LogItem::guest_errors, "{}: {}; the device waits for a reset\n", type_info().name, why);
  if (!running_.exchange(false)) return;
  status_ |= virtio::needs_reset;
  if (!has(virtio::version_1)) return;  // legacy drivers know nothing of it
  machine().main_loop().post([self = Ref{this}] {
    if (self->status_ & virtio::needs_reset && self->realized()) self->transport_->config_interrupt();
  });
}

// --- State

std::vector<VirtQueueState> VirtioDevice::saved_queues() const {
  std::vector<VirtQueueState> out;
  for (const auto& q : queues_) out.push_back(q->state);
  return out;
}

Result<> VirtioDevice::load_queues(const std::vector<VirtQueueState>& from) {
  if (from.size() != queues_.size()) return fail("the stream has {} queues, the device {}", from.size(), queues_.size());
  for (usize i = 0; i < from.size(); i++) {
    const VirtQueueState& s = from[i];
    if (s.size > queues_[i]->max_size()) return fail("queue {} has {} entries, at most {} are possible", i, s.size, queues_[i]->max_size());
    if (s.enabled && !s.size) return fail("queue {} is in use without entries", i);
  }
  stop();
  for (usize i = 0; i < from.size(); i++) queues_[i]->state = from[i];
  return {};
}

std::vector<ChainState> VirtioDevice::saved_chains() const {
  std::vector<ChainState> out;
  for (const auto& q : queues_) q->save(out);
  for (const auto& [n, chain] : again_) out.push_back(queues_[n]->state_of(chain));
  return out;
}

Result<> VirtioDevice::load_chains(const std::vector<ChainState>& chains) {
  for (const ChainState& c : chains)
    if (c.queue >= queues_.size()) return fail("a request of queue {}, the device has {}", c.queue, queues_.size());
  loaded_chains_ = chains;
  return {};
}

Result<> VirtioDevice::load_status(const u8& status) {
  status_ = status;
  return {};
}

Result<> VirtioDevice::after_load() {
  features_ &= offered_features();
  if (has(virtio::ring_packed))
    for (auto& q : queues_)
      if (q->state.size && (q->state.next_avail >= q->state.size || q->state.next_used >= q->state.size))
        return fail("queue {} stands beyond its end", q->index());
  const auto chains = std::exchange(loaded_chains_, {});
  if (!(status_ & virtio::driver_ok) || status_ & virtio::needs_reset) return {};
  start();
  for (const ChainState& c : chains)
    if (auto chain = TRY(queues_[c.queue]->restore(c))) again_.emplace_back(c.queue, std::move(*chain));
  return {};
}

}  // namespace vmm::hw

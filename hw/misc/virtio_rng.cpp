// virtio entropy device. Source: virtio 1.2 §5.4. One queue; each buffer is filled from the back end, within a quota a period.
#include "hw/misc/rng_backend.h"
#include "hw/virtio/virtio_pci.h"

namespace vmm::hw {

class VirtioRng final : public VirtioDevice {
 public:
  static const TypeInfo type;
  static constexpr VirtioPciModel pci{
      .stem = "virtio-rng-pci", .doc = "Random bytes for the guest.", .legacy_id = 0x1005, .alias = "virtio-rng"};
  VirtioRng() : VirtioDevice(4) {}

 private:
  Result<> realize_virtio() override;
  Task<> unrealize_virtio() override;
  void reset_virtio() override;
  void queue_notified(unsigned) override { serve(); }
  void serve();
  void period_over();
  void received(std::span<const u8> bytes);
  static const Field properties[], state[];

  Ref<RngBackend> backend_;
  u64 max_bytes_ = u64{1} << 63;  // a period
  u32 period_ms_ = 1 << 16;
  u64 quota_ = 0;
  bool waiting_ = false;  // for the back end
  Timer refill_{Clock::guest, on<&VirtioRng::period_over>, *this};
};

constexpr Field VirtioRng::properties[] = {
    field<&VirtioRng::backend_>("rng", "Where the bytes come from; the host kernel if not given."),
    field<&VirtioRng::max_bytes_>("max-bytes", "Bytes that the guest gets in a period.", {.min = 1, .max = u64{1} << 63}),
    field<&VirtioRng::period_ms_>("period", "Length of a period in milliseconds.", {.min = 1}),
};
constexpr Field VirtioRng::state[] = {field<&VirtioRng::quota_>("quota", "bytes left in this period")};
constinit const TypeInfo VirtioRng::type{.name = "virtio-rng-device",
                                         .doc = "Random bytes for the guest.",
                                         .parent = &VirtioDevice::type,
                                         .properties = properties,
                                         .state = state,
                                         .make = make<VirtioRng>,
                                         .category = "Misc devices"};
static Registered registered{VirtioRng::type};
static RegisteredVirtioPci<VirtioRng> registered_pci;

Result<> VirtioRng::realize_virtio() {
  if (!backend_) {
    backend_ = make_default_rng();
    add_child("default-backend", backend_);
  }
  add_queue(8);
  quota_ = max_bytes_;
  return {};
}

Task<> VirtioRng::unrealize_virtio() {
  reset_virtio();
  co_return Result<>{};
}

void VirtioRng::reset_virtio() {
  refill_.cancel();
  if (std::exchange(waiting_, false)) backend_->cancel();
  quota_ = max_bytes_;
}

void VirtioRng::serve() {
  VirtQueue& q = *queue(0);
  // Bytes that come at once would call us again from within; the bound keeps the main loop free for others.
  for (unsigned served = 0; !waiting_ && running() && !q.empty() && quota_; served++) {
    if (served == 64) return kick(0);
    auto chain = q.pop();
    if (!chain) return;
    const u64 wanted = std::min<u64>({chain->writable_bytes(), quota_, 4096});
    q.give_back(std::move(*chain));  // the bytes may come much later; until then nothing is in flight
    if (!wanted) return broken("a request without room for bytes");
    waiting_ = true;
    backend_->request(machine().main_loop(), wanted, [this](std::span<const u8> bytes) { received(bytes); });
  }
}

void VirtioRng::received(std::span<const u8> bytes) {
  waiting_ = false;
  if (!running()) return;
  memory::InsideDevice inside{&transport().owner()};
  VirtQueue& q = *queue(0);
  auto chain = q.pop();
  if (!chain) return;
  const usize written = chain->copy_out(0, bytes.first(std::min<u64>(bytes.size(), quota_)));
  quota_ -= written;
  if (!refill_.armed() && quota_ < max_bytes_) refill_.arm_in(std::chrono::milliseconds{period_ms_});
  q.push(std::move(*chain), written);
  q.notify();
  if (!q.empty()) kick(0);
}

void VirtioRng::period_over() {
  quota_ = max_bytes_;
  if (running()) kick(0);
}

}  // namespace vmm::hw

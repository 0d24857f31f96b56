// virtio memory balloon. Source: virtio 1.2 §5.5. Pages that the guest gives are given back to the host; statistics are polled at an
// interval that the user sets (guest-stats-polling-interval), and free pages are reported where free-page-reporting is on.
// Not modelled: free page hints, which only a migration would use.
#include <sys/mman.h>

#include <cstring>

#include "hw/virtio/virtio_pci.h"
#include "src/base/log.h"
#include "src/control/command.h"
#include "src/memory/stored.h"

namespace vmm {
namespace hw {
struct BalloonArgs {
  i64 value = 0;
};
struct BalloonInfo {
  i64 actual = 0;
};
}  // namespace hw
template <>
inline constexpr std::array fields<hw::BalloonArgs> = {
    field<&hw::BalloonArgs::value>("value", "Memory that the guest is to have, in bytes.")};
template <>
inline constexpr std::array fields<hw::BalloonInfo> = {field<&hw::BalloonInfo::actual>("actual", "Memory that the guest has, in bytes.")};
}  // namespace vmm

namespace vmm::hw {

namespace {
enum Feature : u64 { f_statistics = 1 << 1, f_deflate_on_oom = 1 << 2, f_page_poison = 1 << 4, f_reporting = 1 << 5 };
struct Config {
  u32 pages, actual, hint_command, poison;
};
struct [[gnu::packed]] Statistic {
  u16 tag;
  u64 value;
};
constexpr std::string_view statistic_names[] = {
    "stat-swap-in",      "stat-swap-out",         "stat-major-faults", "stat-minor-faults", "stat-free-memory",
    "stat-total-memory", "stat-available-memory", "stat-disk-caches",  "stat-htlb-pgalloc", "stat-htlb-pgfail",
};
constexpr u64 balloon_page = 4096;
constexpr unsigned requests_a_turn = 64;

constexpr control::EventInfo balloon_change{.name = "BALLOON_CHANGE",
                                            .doc = "The guest has changed how much memory it has.",
                                            .data = &Codec<BalloonInfo>::description,
                                            .rate_limited = true};
control::RegisteredEvent registered_change{balloon_change};

// Neighbouring pages of one block, given back to the host together.
class Returned {
 public:
  ~Returned() { flush(); }
  void add(memory::RamBlock& block, u64 offset, u64 length) {
    if (&block == block_ && offset == end_) {
      end_ += length;
    } else if (&block == block_ && offset + length == begin_) {
      begin_ = offset;
    } else {
      flush();
      block_ = &block, begin_ = offset, end_ = offset + length;
    }
  }

 private:
  void flush() {
    if (!block_ || begin_ == end_) return;
    const u64 page = std::max<u64>(block_->host_page_bytes(), balloon_page);
    const u64 first = (begin_ + page - 1) / page * page, last = end_ / page * page;
    // What another process or a file shares with us takes its pages out of the file; a private file stays as it is.
    if (first < last && madvise(block_->host() + first, last - first, block_->fd() >= 0 ? MADV_REMOVE : MADV_DONTNEED) == 0)
      memory::ram_stored(*block_, first, last - first);
    block_ = nullptr;
  }
  memory::RamBlock* block_ = nullptr;
  u64 begin_ = 0, end_ = 0;
};
}  // namespace

class VirtioBalloon final : public VirtioDevice {
 public:
  static const TypeInfo type;
  static constexpr VirtioPciModel pci{.stem = "virtio-balloon-pci",
                                      .doc = "Takes memory from the guest and gives it back.",
                                      .legacy_id = 0x1002,
                                      .vectors = [](unsigned) { return 0u; },
                                      .alias = "virtio-balloon"};
  VirtioBalloon() : VirtioDevice(5) { statistics_.fill(~u64{0}); }
  void set_target(u64 bytes);
  u64 guest_bytes() const { return ram_bytes() - std::min(ram_bytes(), u64{actual_} * balloon_page); }

 private:
  enum class Use : u8 { inflate, deflate, statistics, report };
  Result<> realize_virtio() override;
  Task<> unrealize_virtio() override;
  u64 device_features() const override;
  usize config_bytes() const override { return sizeof(Config); }
  void read_config(std::span<u8> image) const override;
  void write_config(std::span<const u8> image, usize first, usize count) override;
  void reset_virtio() override;
  void queue_notified(unsigned n) override;
  void before_save() override;

  u64 ram_bytes() const { return machine().ram() ? machine().ram()->size_bytes() : 0; }
  void give_pages(const Chain& chain, Returned& returned);
  void report(const Chain& chain, Returned& returned);
  void take_statistics();
  void ask_statistics();
  i64 interval() const { return interval_s_; }
  Result<> set_interval(const i64& seconds);
  Value guest_statistics() const;
  static const Field properties[6], state[3];

  std::vector<Use> uses_;  // of the queues, by number
  bool deflate_on_oom_ = false, page_poison_ = true, reporting_ = false, old_config_ = false;
  u32 pages_ = 0, actual_ = 0, poison_ = 0;
  i64 interval_s_ = 0;
  i64 last_update_s_ = 0;
  std::array<u64, std::size(statistic_names)> statistics_{};
  std::optional<Chain> statistics_request_;  // the driver's buffer, which we keep until we want new figures
  Timer poll_{Clock::guest, on<&VirtioBalloon::ask_statistics>, *this};
};

constexpr Field VirtioBalloon::properties[6] = {
    field<&VirtioBalloon::deflate_on_oom_>("deflate-on-oom", "The guest may take memory back when it runs short."),
    field<&VirtioBalloon::page_poison_>("page-poison", "Offer the guest to tell its page poison."),
    field<&VirtioBalloon::reporting_>("free-page-reporting", "Give the host pages that the guest reports as free."),
    field<&VirtioBalloon::old_config_>("qemu-4-0-config-size", "Accepted."),
    computed<&VirtioBalloon::interval, &VirtioBalloon::set_interval>(
        "guest-stats-polling-interval", "Seconds between two looks at the guest's statistics; 0: none.", {.live = true}),
    computed<&VirtioBalloon::guest_statistics>("guest-stats", "The guest's statistics, and when they came."),
};
constexpr Field VirtioBalloon::state[3] = {
    field<&VirtioBalloon::pages_>("num-pages", "pages that the guest is to give"),
    field<&VirtioBalloon::actual_>("actual", "pages that it has given"),
    field<&VirtioBalloon::poison_>("poison", "what it fills free pages with"),
};
constinit const TypeInfo VirtioBalloon::type{.name = "virtio-balloon-device",
                                             .doc = "Takes memory from the guest and gives it back.",
                                             .parent = &VirtioDevice::type,
                                             .properties = properties,
                                             .state = state,
                                             .make = make<VirtioBalloon>,
                                             .category = "Misc devices"};
static Registered registered{VirtioBalloon::type};
static RegisteredVirtioPci<VirtioBalloon> registered_pci;

// --- Commands

namespace {
VirtioBalloon* find_balloon() {
  VirtioBalloon* found = nullptr;
  if (vm::Machine* machine = vm::current_machine())
    for_each_device(*machine, [&](Device& d) {
      if (auto* b = dynamic_cast<VirtioBalloon*>(&d); b && b->realized()) found = b;
    });
  return found;
}
std::unexpected<Error> no_balloon() { return fail(ErrorClass::device_not_active, "No balloon device has been activated"); }

Result<> balloon(control::Context&, const BalloonArgs& args) {
  MachineLockedIfNot lock;
  VirtioBalloon* b = find_balloon();
  if (!b) return no_balloon();
  if (args.value <= 0) return fail("Parameter 'target' expects a size");
  b->set_target(static_cast<u64>(args.value));
  return {};
}
Result<BalloonInfo> query_balloon(control::Context&) {
  MachineLockedIfNot lock;
  const VirtioBalloon* b = find_balloon();
  if (!b) return no_balloon();
  return BalloonInfo{static_cast<i64>(b->guest_bytes())};
}
Result<std::string> balloon_human(control::Context& context, std::span<const std::string> words) {
  if (words.empty()) return fail("balloon takes the guest's memory in megabytes");
  i64 megabytes = 0;
  TRY(Codec<i64>::from_value(megabytes, Value{words[0]}, "value", {}));
  if (megabytes > i64{1} << 40) return fail("{} megabytes are too many", megabytes);
  TRY(balloon(context, {megabytes * static_cast<i64>(MiB)}));
  return std::string{};
}
control::Registered registered_balloon{
    control::command<balloon>({.name = "balloon", .doc = "Ask the guest to have this much memory.", .since = "1.0"})};
control::Registered registered_query{control::command<query_balloon>({.name = "query-balloon",
                                                                      .doc = "How much memory the guest has.",
                                                                      .human = "info balloon",
                                                                      .human_help = "show balloon information",
                                                                      .human_print = [](const Value& v) {
                                                                        const auto actual = v.find("actual")->as_i64("actual");
                                                                        return format("balloon: actual={}\n",
                                                                                      actual ? *actual / static_cast<i64>(MiB) : 0);
                                                                      }})};
control::Registered registered_human{control::human<balloon_human>(
    {.human = "balloon", .human_args = "value:i", .human_help = "request VM to change its memory allocation (in MB)"})};
}  // namespace

// --- Life

Result<> VirtioBalloon::realize_virtio() {
  if (const VirtioBalloon* other = find_balloon(); other && other != this) return fail("Only one balloon device is supported");
  add_queue(128), add_queue(128), add_queue(128);
  uses_ = {Use::inflate, Use::deflate, Use::statistics};
  if (reporting_) add_queue(32), uses_.push_back(Use::report);
  return {};
}

Task<> VirtioBalloon::unrealize_virtio() {
  reset_virtio();
  co_return Result<>{};
}

void VirtioBalloon::reset_virtio() {
  statistics_request_ = std::nullopt;
  statistics_.fill(~u64{0});
  poll_.cancel();
  actual_ = poison_ = 0;
}

void VirtioBalloon::before_save() {
  if (statistics_request_) queue(2)->give_back(std::move(*statistics_request_)), statistics_request_ = std::nullopt;
}

u64 VirtioBalloon::device_features() const {
  return f_statistics | (deflate_on_oom_ ? f_deflate_on_oom : 0) | (page_poison_ ? f_page_poison : 0) | (reporting_ ? f_reporting : 0);
}

void VirtioBalloon::read_config(std::span<u8> image) const {
  const Config c{.pages = pages_, .actual = actual_, .hint_command = 0, .poison = poison_};
  std::memcpy(image.data(), &c, sizeof c);
}

void VirtioBalloon::write_config(std::span<const u8> image, usize, usize) {
  Config c;
  std::memcpy(&c, image.data(), sizeof c);
  if (has(f_page_poison)) poison_ = c.poison;
  if (c.actual == actual_) return;
  actual_ = c.actual;
  control::emit(balloon_change, Codec<BalloonInfo>::to_value({static_cast<i64>(guest_bytes())}));
}

void VirtioBalloon::set_target(u64 bytes) {
  pages_ = static_cast<u32>((ram_bytes() - std::min(bytes, ram_bytes())) / balloon_page);
  config_changed();
}

// --- Queues

void VirtioBalloon::queue_notified(unsigned n) {
  if (uses_[n] == Use::statistics) return take_statistics();
  VirtQueue& q = *queue(n);
  Returned returned;
  bool answered = false;
  for (unsigned budget = requests_a_turn; auto chain = q.pop(); answered = true) {
    if (uses_[n] == Use::inflate) give_pages(*chain, returned);
    if (uses_[n] == Use::report) report(*chain, returned);
    q.push(std::move(*chain), 0);
    if (!--budget) {
      kick(n);
      answered = true;
      break;
    }
  }
  if (answered) q.notify();  // else a machine that has been loaded, and still stands, would find an interrupt that nobody sent
}

void VirtioBalloon::give_pages(const Chain& chain, Returned& returned) {
  std::array<u32, 256> pages;
  for (u64 at = 0;;) {
    const usize n = chain.copy_in(at, {reinterpret_cast<u8*>(pages.data()), sizeof pages}) / sizeof(u32);
    if (!n) return;
    at += n * sizeof(u32);
    for (const u32 page : std::span{pages}.first(n)) {
      const memory::PageInfo info = dma().page(GuestPhys{u64{page} * balloon_page});
      if (info.block && !info.read_only) returned.add(*info.block, info.block_offset, balloon_page);
    }
  }
}

void VirtioBalloon::report(const Chain& chain, Returned& returned) {
  if (poison_) return;  // the guest counts on what it filled them with
  const auto view = dma().view();
  for (const GuestSegment& s : chain.writable()) {
    for (u64 at = s.at, left = s.length; left;) {
      const memory::FlatRange* r = view->find(at);
      if (!r) break;
      const u64 here = std::min<u64>(left - 1, r->last - at) + 1;
      if (r->ram && !r->read_only) returned.add(*r->ram, r->ram_offset + (at - r->first), here);
      at += here, left -= here;
    }
  }
}

// --- Statistics

void VirtioBalloon::take_statistics() {
  VirtQueue& q = *queue(2);
  auto chain = q.pop();
  if (!chain) return;
  if (statistics_request_) {  // it may give one buffer only; the older one goes back
    q.push(std::move(*statistics_request_), 0);
    q.notify();
  }
  std::array<Statistic, 32> entries;
  const usize n = chain->copy_in(0, {reinterpret_cast<u8*>(entries.data()), sizeof entries}) / sizeof(Statistic);
  statistics_.fill(~u64{0});
  for (const Statistic& s : std::span{entries}.first(n))
    if (s.tag < statistics_.size()) statistics_[s.tag] = s.value;
  last_update_s_ = std::chrono::duration_cast<std::chrono::seconds>(machine().time_domain().now(Clock::host)).count();
  statistics_request_ = std::move(chain);
  if (interval_s_) poll_.arm_in(std::chrono::seconds{interval_s_});
}

void VirtioBalloon::ask_statistics() {
  if (!statistics_request_ || !running()) return;
  VirtQueue& q = *queue(2);
  q.push(std::move(*statistics_request_), 0);
  statistics_request_ = std::nullopt;
  q.notify();
}

Result<> VirtioBalloon::set_interval(const i64& seconds) {
  if (seconds < 0) return fail("timer value must be greater than zero");
  if (seconds > 0xffff'ffff) return fail("timer value is too big");
  interval_s_ = seconds;
  if (!realized()) return {};
  poll_.cancel();
  if (seconds) ask_statistics();
  return {};
}

Value VirtioBalloon::guest_statistics() const {
  Value list = Value::object();
  for (usize i = 0; i < statistics_.size(); i++) list.set(std::string{statistic_names[i]}, statistics_[i]);
  Value all = Value::object();
  all.set("stats", std::move(list));
  all.set("last-update", last_update_s_);
  return all;
}

}  // namespace vmm::hw

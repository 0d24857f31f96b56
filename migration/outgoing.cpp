// See outgoing.h.
#include "migration/outgoing.h"

#include <algorithm>
#include <array>

#include "block/core/backend.h"
#include "block/core/handover.h"
#include "block/core/quiet.h"
#include "migration/on_loop.h"
#include "migration/settings.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/base/thread_name.h"
#include "src/control/command.h"
#include "src/vm/state.h"

namespace vmm::migration {

namespace {
struct StatusData {
  std::string status;
};
struct PassData {
  i64 pass = 0;
};
}  // namespace
}  // namespace vmm::migration

namespace vmm {
template <>
inline constexpr std::array fields<migration::StatusData> = {field<&migration::StatusData::status>("status", "How far it is.")};
template <>
inline constexpr std::array fields<migration::PassData> = {field<&migration::PassData::pass>("pass", "Number of the pass over RAM.")};
}  // namespace vmm

namespace vmm::migration {

namespace {
constexpr control::EventInfo migration_event{
    .name = "MIGRATION", .doc = "A move has come to its next state.", .data = &Codec<StatusData>::description};
constexpr control::EventInfo pass_event{
    .name = "MIGRATION_PASS", .doc = "Another pass over RAM begins.", .data = &Codec<PassData>::description};
const control::RegisteredEvent registered_events[] = {control::RegisteredEvent{migration_event}, control::RegisteredEvent{pass_event}};

constexpr u64 page = memory::page_bytes;
Nanoseconds now() { return std::chrono::steady_clock::now().time_since_epoch(); }

// Whether other processes that use our images would keep us from taking them.
bool images_are_locked() {
  return std::ranges::any_of(block::all_nodes(), [](const block::NodeRef& n) {
    return !n->read_only() && (n->driver().name == "file" || n->driver().name == "host_device");
  });
}
}  // namespace

std::unique_ptr<Outgoing>& latest_move() {
  static auto& it = *new std::unique_ptr<Outgoing>;
  return it;
}

void emit_status(MoveStatus status) {
  if (capable(Capability::events)) control::emit(migration_event, Value::object().set("status", Codec<MoveStatus>::to_value(status)));
}

Outgoing::Outgoing(vm::Machine& machine, std::string uri) : machine_(machine), uri_(std::move(uri)), begun_(now()) {
  [[maybe_unused]] static const bool once = (block::before_close([](EventLoop&) { latest_move() = nullptr; }), true);
  set_status(MoveStatus::setup);
  thread_ = std::thread{[this] { run(); }};
}

Outgoing::~Outgoing() {
  cancel();
  while (!finished_) machine_.main_loop().run_once(true);
  if (thread_.joinable()) thread_.join();
}

void Outgoing::cancel() {
  cancelled_ = true;
  if (!ended()) {
    const MachineLockedIfNot locked;
    set_status(MoveStatus::cancelling);
  }
  channel_.cancel();
  if (lanes_) lanes_->cancel();
  const std::lock_guard lock{mutex_};
  changed_.notify_all();
}

bool Outgoing::ended() const {
  const std::lock_guard lock{mutex_};
  return figures_.status == MoveStatus::cancelled || figures_.status == MoveStatus::completed || figures_.status == MoveStatus::failed;
}

bool Outgoing::go_on() {
  const std::lock_guard lock{mutex_};
  if (figures_.status != MoveStatus::pre_switchover) return false;
  may_go_on_ = true;
  changed_.notify_all();
  return true;
}

u64 Outgoing::elapsed_ms() const { return static_cast<u64>((now() - begun_).count() / 1'000'000); }

Figures Outgoing::figures() const {
  const std::lock_guard lock{mutex_};
  Figures f = figures_;
  f.transferred = sent();
  f.multifd = lanes_ ? lanes_->bytes() : 0;
  f.zero_pages = out_.zero_pages, f.normal_pages = out_.normal_pages, f.total = out_.total_bytes();
  const u64 of_pass = f.zero_pages + f.normal_pages - pages_before_;
  f.remaining = f.status != MoveStatus::completed && pass_pages_ > of_pass ? (pass_pages_ - of_pass) * page : 0;
  f.downtime_bytes = bytes_before_stop_ ? f.transferred - bytes_before_stop_ : 0;
  f.throttle_percent = slow_down_.percent();
  if (ended_at_ == Nanoseconds{0}) f.total_ms = elapsed_ms();
  f.mbps = f.total_ms ? static_cast<double>(f.transferred) * 8 / 1000 / static_cast<double>(f.total_ms) : 0;
  return f;
}

// Machine lock held.
void Outgoing::set_status(MoveStatus status, std::string error) {
  {
    const std::lock_guard lock{mutex_};
    // A move that is being cancelled goes on to its end, but says so.
    const bool ends = status == MoveStatus::completed || status == MoveStatus::failed || status == MoveStatus::cancelled;
    if (figures_.status == status || (figures_.status == MoveStatus::cancelling && !ends)) return;
    figures_.status = status, figures_.error = std::move(error);
    if (ends) figures_.total_ms = elapsed_ms(), ended_at_ = now();
  }
  emit_status(status);
}

void Outgoing::run() {
  name_this_thread("migration");
  auto moved = move();
  slow_down_.end();
  channel_.cancel();
  if (!moved) {  // a relay between the two ends with our side of it
    if (lanes_) lanes_->hang_up();
    channel_.hang_up();
  }
  {
    MachineLocked lock;
    out_.end();
  }
  if (!moved && stopped_) back_again();
  {
    MachineLocked lock;
    if (moved)
      set_status(MoveStatus::completed);
    else if (cancelled_ && !unknown_)
      set_status(MoveStatus::cancelled);
    else
      set_status(MoveStatus::failed, moved.error().message);
  }
  finished_ = true;
  machine_.main_loop().post([] {});  // who waits for this looks again
}

// The machine is still ours, and goes on as it did. Where it is not known whether the other side runs it, the images tell: who runs it
// holds them. For a machine without any the manager must say.
void Outgoing::back_again() {
  if (disks_gone_) {
    Result<> ours = fail("it has no image whose lock would tell who runs it");
    if (!unknown_ || images_are_locked()) {
      for (int attempts = 0; attempts < 50; attempts++) {
        ours = task_on_loop(machine_.main_loop(), [] { return block::activate_all(); });
        if (ours) break;
        std::this_thread::sleep_for(std::chrono::milliseconds{100});  // the other side may be about to let go
      }
    }
    if (!ours) {
      static_cast<void>(on_loop(machine_.main_loop(), [&]() -> Result<> {
        machine_.run_state().stop(vm::Status::postmigrate);
        report_error(format("the machine is paused: {} ('cont' runs it here if its images can be had)", ours.error().message));
        return {};
      }));
      return;
    }
  }
  static_cast<void>(on_loop(machine_.main_loop(), [this]() -> Result<> {
    machine_.run_state().stop(status_before_ == vm::Status::running ? vm::Status::paused : status_before_);
    if (status_before_ == vm::Status::running) machine_.run_state().start();
    return {};
  }));
}

Result<> Outgoing::move() {
  TRY(channel_.connect(uri_));
  TRY(first_part());
  for (;;) {
    const Nanoseconds start = now();
    const u64 before = sent();
    TRY(send_due(true));
    const double seconds = std::max(1e-6, static_cast<double>((now() - start).count()) / 1e9);
    const u64 sent_now = sent() - before;
    const double rate = std::max(1.0 * MiB, static_cast<double>(sent_now) / seconds);
    u64 limit_ms = 0;
    {
      MachineLocked lock;
      out_.harvest();
      begin_pass();
      limit_ms = parameters.downtime_limit;
    }
    const u64 pages = out_.due_pages();
    const double rest_ms = static_cast<double>(pages * page) / rate * 1000;
    {
      const std::lock_guard figures{mutex_};
      figures_.dirty_pages_a_second = static_cast<u64>(static_cast<double>(pages) / seconds);
      figures_.expected_downtime_ms = static_cast<u64>(rest_ms);
    }
    if (rest_ms <= static_cast<double>(limit_ms)) break;
    converge(sent_now, pages);
  }
  return stop_and_finish();
}

// What is due has just been harvested. Machine lock held.
void Outgoing::begin_pass() {
  u64 pass = 0;
  {
    const std::lock_guard figures{mutex_};
    pass = ++figures_.rounds;
    pass_pages_ = out_.due_pages(), pages_before_ = out_.zero_pages + out_.normal_pages;
  }
  if (capable(Capability::events)) control::emit(pass_event, Value::object().set("pass", pass));
}

Result<> Outgoing::first_part() {
  unsigned lanes = 0;
  {
    MachineLocked lock;
    // The manager may end jobs when it is told that the guest stands.
    TRY(block::check_hand_over(!capable(Capability::pause_before_switchover)));
    places_ = capable(Capability::mapped_ram);
    if (places_) {
      if (!channel_.has_places()) return fail("Migration requires seekable transport (e.g. file)");
    } else if (capable(Capability::multifd)) {
      if (!uri_.starts_with("tcp:") && !uri_.starts_with("unix:")) return fail("Migration requires multi-channel URIs (tcp: or unix:)");
      lanes = static_cast<unsigned>(parameters.multifd_channels);
      lanes_.emplace(out_, parameters.multifd_compression, static_cast<int>(parameters.multifd_zstd_level));
    }
    out_.begin();
    begin_pass();
  }
  TRY(places_ ? out_.write_machine_with_places(writer_, channel_) : out_.write_machine(writer_, lanes));
  if (lanes_) TRY(lanes_->open(uri_, lanes));
  MachineLocked lock;
  {
    const std::lock_guard figures{mutex_};
    figures_.setup_ms = elapsed_ms();
  }
  set_status(MoveStatus::active);
  return {};
}

// Two passes in a row that were overtaken: the guest is slowed down, more each time.
void Outgoing::converge(u64 sent_bytes, u64 due_pages) {
  fast_passes_ = due_pages * page > sent_bytes / 2 ? fast_passes_ + 1 : 0;
  Parameters p;
  {
    MachineLocked lock;
    if (!capable(Capability::auto_converge)) return;
    p = parameters;
  }
  if (fast_passes_ < 2) return;
  fast_passes_ = 0;
  const u64 before = slow_down_.percent();
  slow_down_.set(static_cast<unsigned>(std::min(before ? before + p.cpu_throttle_increment : p.cpu_throttle_initial, p.max_cpu_throttle)));
}

// Not more a second than is allowed, counted from the last change of that.
void Outgoing::pace() {
  u64 limit = 0;
  {
    MachineLocked lock;
    limit = parameters.max_bandwidth;
  }
  const u64 bytes = sent();
  if (limit != budget_limit_) budget_limit_ = limit, budget_begin_ = now(), budget_bytes_ = bytes;
  if (!limit) return;
  const Nanoseconds due =
      budget_begin_ + Nanoseconds{static_cast<i64>(static_cast<double>(bytes - budget_bytes_) / static_cast<double>(limit) * 1e9)};
  const Nanoseconds wait = due - now();
  // What was not used for a while is not made up for.
  if (wait < Nanoseconds{-1'000'000'000}) budget_begin_ = now(), budget_bytes_ = bytes;
  if (wait < Nanoseconds{2'000'000}) return;
  std::unique_lock lock{mutex_};
  changed_.wait_for(lock, std::min(wait, Nanoseconds{100'000'000}), [&] { return cancelled_.load(); });
}

Result<> Outgoing::send_due(bool in_time) {
  TRY(out_.send_due([&](u32 block, u64 first, u64 count) -> Result<> {
    if (cancelled_) return fail(ErrorClass::cancelled, "cancelled");
    if (lanes_) {
      TRY(lanes_->send(block, first, count));
    } else if (places_) {
      TRY(out_.place_pages(channel_, block, first, count));
    } else {
      TRY(writer_.part(Part::pages, out_.build_pages(block, first, count, room_)));
    }
    if (in_time) pace();
    return {};
  }));
  if (!lanes_) return {};
  TRY(lanes_->mark(passes_));
  std::array<u8, 4> word;
  store_le<u32>(word.data(), passes_++);
  return writer_.part(Part::sync, word);
}

Result<> Outgoing::wait_for_manager() {
  {
    MachineLocked lock;
    if (!capable(Capability::pause_before_switchover)) return {};
    set_status(MoveStatus::pre_switchover);
  }
  std::unique_lock lock{mutex_};
  changed_.wait(lock, [&] { return may_go_on_ || cancelled_; });
  return cancelled_ ? Result<>{fail(ErrorClass::cancelled, "cancelled")} : Result<>{};
}

Result<> Outgoing::stop_and_finish() {
  slow_down_.end();
  {
    const std::lock_guard figures{mutex_};
    bytes_before_stop_ = sent();
  }
  Nanoseconds down{};
  TRY(on_loop(machine_.main_loop(), [&]() -> Result<> {
    down = now();
    vm::RunState& state = machine_.run_state();
    status_before_ = state.status();
    stopped_ = true;
    if (state.running())
      state.stop(vm::Status::finish_migrate);
    else
      vm::stand(state, vm::Status::finish_migrate);
    block::drain_all(machine_.main_loop());
    return {};
  }));
  TRY(wait_for_manager());
  {
    MachineLocked lock;
    out_.harvest();
    begin_pass();
    set_status(MoveStatus::device);
  }
  TRY(send_due(false));
  std::vector<Value> sections;
  {
    MachineLocked lock;
    sections = out_.sections(status_before_);
    out_.harvest();  // saving may itself have written to the guest's memory
  }
  for (const Value& section : sections) TRY(writer_.described(Part::section, section));
  TRY(send_due(false));
  if (places_) TRY(out_.write_places(writer_));
  // Who cannot ask takes the disks when the end has come.
  if (!channel_.answers()) TRY(let_go());
  TRY(writer_.part(Part::end, std::span<const u8>{}));
  TRY(hand_over());
  TRY(on_loop(machine_.main_loop(), [&]() -> Result<> {
    machine_.run_state().stop(vm::Status::postmigrate);
    return {};
  }));
  const std::lock_guard figures{mutex_};
  figures_.downtime_ms = static_cast<u64>((now() - down).count() / 1'000'000);
  return {};
}

Result<> Outgoing::let_go() {
  TRY(task_on_loop(machine_.main_loop(), [] { return block::inactivate_all(); }));
  disks_gone_ = true;
  return {};
}

// The other side has all; the disks go over, and with them the right to run.
Result<> Outgoing::hand_over() {
  if (!channel_.answers()) return channel_.finish();
  u8 answer = 0;
  TRY(channel_.read({&answer, 1}));
  if (answer != 1) return fail("the other side has refused the machine");
  TRY(let_go());
  TRY(channel_.write(std::array<u8, 1>{1}));
  // From here on it may be theirs.
  if (auto heard = channel_.read({&answer, 1}); !heard) {
    unknown_ = true;
    return fail("the connection was lost before the other side has said that it runs the machine ({})", heard.error().message);
  }
  if (answer != 1) return fail("the other side could not take the disks");
  return channel_.finish();
}

}  // namespace vmm::migration

// See outgoing.h.
#include "migration/outgoing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <future>

#include "block/core/backend.h"
#include "src/base/bits.h"
#include "src/base/thread_name.h"
#include "src/control/command.h"
#include "src/memory/ram.h"
#include "src/vm/state.h"

namespace vmm::migration {

Parameters parameters;

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

bool is_zero(const u8* at) {
  const u64* p = reinterpret_cast<const u64*>(at);
  for (u64 i = 0; i < page / 8; i += 8)
    if (p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7]) return false;
  return true;
}
}  // namespace

struct Outgoing::Block {
  memory::RamBlock* block;
  std::vector<u64> dirty;  // what the other side does not have yet, a bit a page
};

std::unique_ptr<Outgoing>& latest_move() {
  static std::unique_ptr<Outgoing> move;
  return move;
}

Outgoing::Outgoing(vm::Machine& machine, std::string uri) : machine_(machine), uri_(std::move(uri)), begun_(now()) {
  set_status(MoveStatus::setup);
  thread_ = std::thread{[this] { run(); }};
}

Outgoing::~Outgoing() {
  cancel();
  if (!thread_.joinable()) return;
  const bool locked = machine_lock.held_by_this_thread();
  if (locked) machine_lock.unlock();
  thread_.join();
  if (locked) machine_lock.lock();
}

void Outgoing::cancel() {
  cancelled_ = true;
  channel_.cancel();
}

bool Outgoing::ended() const {
  const std::lock_guard lock{mutex_};
  return figures_.status == MoveStatus::cancelled || figures_.status == MoveStatus::completed || figures_.status == MoveStatus::failed;
}

u64 Outgoing::elapsed_ms() const { return static_cast<u64>((now() - begun_).count() / 1'000'000); }

Figures Outgoing::figures() const {
  const std::lock_guard lock{mutex_};
  Figures f = figures_;
  f.transferred = channel_.bytes();
  if (ended_at_ == Nanoseconds{0}) f.total_ms = elapsed_ms();
  f.mbps = f.total_ms ? static_cast<double>(f.transferred) * 8 / 1000 / static_cast<double>(f.total_ms) : 0;
  return f;
}

// Machine lock held.
void Outgoing::set_status(MoveStatus status, std::string error) {
  {
    const std::lock_guard lock{mutex_};
    figures_.status = status, figures_.error = std::move(error);
    if (status == MoveStatus::completed || status == MoveStatus::failed || status == MoveStatus::cancelled)
      figures_.total_ms = elapsed_ms(), ended_at_ = now();
  }
  control::emit(migration_event, Value::object().set("status", Codec<MoveStatus>::to_value(status)));
}

void Outgoing::run() {
  name_this_thread("migration");
  auto moved = move();
  channel_.cancel();
  MachineLocked lock;
  if (logging_) set_logging(false);
  if (moved) return set_status(MoveStatus::completed);
  // The machine is still ours, and goes on if it did.
  if (stopped_) {
    machine_.main_loop().post([&machine = machine_, again = was_running_] {
      machine.run_state().stop(vm::Status::paused);
      if (again) machine.run_state().start();
    });
  }
  const bool cancelled = cancelled_.load();
  set_status(cancelled ? MoveStatus::cancelled : MoveStatus::failed, cancelled ? std::string{} : moved.error().message);
}

Result<> Outgoing::move() {
  TRY(channel_.connect(uri_));
  std::string type;
  {
    MachineLocked lock;
    type = machine_.type_info().name;
    Value ram = Value::list();
    for (memory::RamBlock* b : memory::ram_blocks()) {
      const u64 pages = b->size_bytes() / page;
      Block& block = blocks_.emplace_back(Block{b, std::vector<u64>((pages + 63) / 64, ~u64{0})});
      if (pages % 64) block.dirty.back() = (u64{1} << (pages % 64)) - 1;
      ram.append(Value::object().set("name", b->name()).set("bytes", b->size_bytes()));
      figures_.total += b->size_bytes();
    }
    set_logging(true);
    logging_ = true;
    TRY(writer_.head());
    TRY(writer_.described(Part::machine, Value::object().set("type", type).set("ram", ram)));
    {
      const std::lock_guard figures{mutex_};
      figures_.setup_ms = elapsed_ms();
    }
    set_status(MoveStatus::active);
  }
  for (;;) {
    const Nanoseconds start = now();
    const u64 before = channel_.bytes();
    TRY(send_round());
    const double seconds = std::max(1e-6, static_cast<double>((now() - start).count()) / 1e9);
    const double rate = std::max(1.0 * MiB, static_cast<double>(channel_.bytes() - before) / seconds);
    u64 limit_ms = 0;
    {
      MachineLocked lock;
      harvest();
      limit_ms = parameters.downtime_limit_ms;
    }
    const u64 pages = remaining_pages();
    const double rest_ms = static_cast<double>(pages * page) / rate * 1000;
    {
      const std::lock_guard figures{mutex_};
      figures_.rounds++;
      figures_.remaining = pages * page;
      figures_.dirty_pages_a_second = static_cast<u64>(static_cast<double>(pages) / seconds);
      figures_.expected_downtime_ms = static_cast<u64>(rest_ms);
    }
    if (rest_ms <= static_cast<double>(limit_ms)) break;
    MachineLocked lock;
    control::emit(pass_event, Value::object().set("pass", figures_.rounds + 1));
  }
  return stop_and_finish();
}

void Outgoing::set_logging(bool on) {
  for (Block& b : blocks_) b.block->set_dirty_logging(memory::DirtyClient::migration, on);
  logging_ = on;
}

void Outgoing::harvest() {
  std::vector<u64> fresh;
  for (Block& b : blocks_) {
    b.block->fetch_and_clear_dirty(memory::DirtyClient::migration, 0, b.block->size_bytes() / page, fresh);
    for (usize i = 0; i < b.dirty.size() && i < fresh.size(); i++) b.dirty[i] |= fresh[i];
  }
}

u64 Outgoing::remaining_pages() const {
  u64 n = 0;
  for (const Block& b : blocks_)
    for (const u64 word : b.dirty) n += static_cast<u64>(std::popcount(word));
  return n;
}

// Not more a second than was allowed.
void Outgoing::pace(u64 sent_before) {
  u64 limit = 0;
  {
    MachineLocked lock;
    limit = parameters.max_bandwidth;
  }
  if (!limit) return;
  const Nanoseconds due = begun_ + Nanoseconds{static_cast<i64>(static_cast<double>(channel_.bytes()) / static_cast<double>(limit) * 1e9)};
  static_cast<void>(sent_before);
  if (const Nanoseconds wait = due - now(); wait > Nanoseconds{2'000'000} && !stopped_)
    std::this_thread::sleep_for(std::min(wait, Nanoseconds{100'000'000}));
}

Result<> Outgoing::send_pages(u32 block, u64 first, u64 count) {
  const u8* const host = blocks_[block].block->host();
  const usize map_bytes = (count + 7) / 8;
  payload_.assign(16 + map_bytes, 0);
  store_le<u32>(&payload_[0], block), store_le<u32>(&payload_[4], static_cast<u32>(count)), store_le<u64>(&payload_[8], first);
  u64 zeros = 0;
  for (u64 i = 0; i < count; i++) {
    // Copied before it is looked at: the guest may store into it now.
    const usize at = payload_.size();
    payload_.resize(at + page);
    memory::ram_copy_out(&payload_[at], host + (first + i) * page, page);
    if (is_zero(&payload_[at])) {
      payload_.resize(at);
      zeros++;
    } else {
      payload_[16 + i / 8] |= static_cast<u8>(1 << (i % 8));
    }
  }
  {
    const std::lock_guard figures{mutex_};
    figures_.zero_pages += zeros, figures_.normal_pages += count - zeros;
  }
  return writer_.part(Part::pages, payload_);
}

Result<> Outgoing::send_round() {
  for (u32 n = 0; n < blocks_.size(); n++) {
    Block& b = blocks_[n];
    const u64 pages = b.block->size_bytes() / page;
    for (u64 at = 0; at < pages;) {
      if (!(b.dirty[at / 64] >> (at % 64))) {
        at = (at / 64 + 1) * 64;
        continue;
      }
      if (!(b.dirty[at / 64] >> (at % 64) & 1)) {
        at++;
        continue;
      }
      u64 count = 0;
      while (at + count < pages && count < pages_a_part && b.dirty[(at + count) / 64] >> ((at + count) % 64) & 1) {
        b.dirty[(at + count) / 64] &= ~(u64{1} << ((at + count) % 64));
        count++;
      }
      TRY(send_pages(n, at, count));
      pace(channel_.bytes());
      at += count;
    }
  }
  return {};
}

Result<> Outgoing::stop_and_finish() {
  std::promise<void> stopped;
  Nanoseconds down{};
  machine_.main_loop().post([&] {
    down = now();
    vm::RunState& state = machine_.run_state();
    was_running_ = state.running();
    state.stop(vm::Status::finish_migrate);
    block::drain_all(machine_.main_loop());
    stopped_ = true;
    stopped.set_value();
  });
  stopped.get_future().wait();
  {
    MachineLocked lock;
    harvest();
    set_status(MoveStatus::device);
  }
  TRY(send_round());
  {
    MachineLocked lock;
    vm::StateSections all = vm::state_sections(machine_);
    for (const vm::StateSection& s : all.sections)
      TRY(writer_.described(Part::section, Value::object().set("name", s.name).set("state", s.save())));
    // Saving may itself have written to the guest's memory.
    harvest();
  }
  TRY(send_round());
  TRY(writer_.part(Part::end, std::span<const u8>{}));
  if (channel_.answers()) {
    u8 answer = 0;
    TRY(channel_.read({&answer, 1}));
    if (answer != 1) return fail("the other side has refused the machine");
    // From here on it is theirs; without this byte they do not run it.
    TRY(channel_.write(std::array<u8, 1>{1}));
  }
  TRY(channel_.finish());
  const std::lock_guard figures{mutex_};
  figures_.remaining = 0;
  figures_.downtime_ms = static_cast<u64>((now() - down).count() / 1'000'000);
  machine_.main_loop().post([&machine = machine_] { machine.run_state().stop(vm::Status::postmigrate); });
  return {};
}

}  // namespace vmm::migration

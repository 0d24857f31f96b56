// See snapshot.h. A save is a move whose stream ends behind a disk: docs/migration.md.
#include "migration/snapshot.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <ctime>
#include <mutex>

#include "block/core/handover.h"
#include "block/core/quiet.h"
#include "block/format/qcow2.h"
#include "migration/machine_in.h"
#include "migration/machine_out.h"
#include "migration/on_loop.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/event/worker_pool.h"
#include "src/vm/state.h"

namespace vmm::migration {

namespace {

constexpr u64 small_disk_bytes = 64 * MiB, piece_bytes = 1 * MiB, page = memory::page_bytes;
constexpr unsigned most_passes = 5;           // while the machine runs
constexpr u64 few_pages = 1024;               // so much may be left when it stands …
constexpr u64 most_copied_pages = 64 * 1024;  // … and is copied; more is written

struct Disk {
  std::string name;  // for messages, and of a raw one in the stream
  block::NodeRef node;
  block::Qcow2* qcow2 = nullptr;  // null: a small raw disk
  Result<> at_rest() const {
    if (&node->loop() != current_loop())
      return fail("Device '{}' is used by an iothread, where snapshots cannot be taken yet: detach it from the iothread", name);
    return {};
  }
};

// Whose snapshots make up one of the machine. `vm_state`: which of them keeps the RAM.
struct Disks {
  std::vector<Disk> all;
  block::Qcow2* vm_state = nullptr;
};

Result<Disks> find_disks(const SnapshotDisks& which) {
  Disks out;
  const auto wanted = [&](const block::BlockNode& node) {
    return !which.devices || std::ranges::find(*which.devices, node.node_name()) != which.devices->end();
  };
  std::vector<std::string> found;
  for (const auto& b : block::all_backends()) {
    if (!b->root()) continue;
    block::BlockNode& top = block::below_filters(*b->node());
    if (!wanted(top) && !wanted(*b->node())) continue;
    found.push_back(wanted(top) ? top.node_name() : b->node()->node_name());
    if (b->read_only()) continue;
    if (std::ranges::any_of(out.all, [&](const Disk& d) { return d.node.get() == &top; })) continue;
    Disk disk{
        .name = b->id().empty() ? top.node_name() : b->id(), .node = top.shared_from_this(), .qcow2 = dynamic_cast<block::Qcow2*>(&top)};
    if (!disk.qcow2 && (top.driver().name != "raw" || top.length_bytes() > small_disk_bytes))
      return fail("Device '{}' is writable but does not support snapshots", disk.name);
    TRY(disk.at_rest());
    for (const block::Edge* e : top.parents())
      if (!e->parent() && e->name() != "root" && e->needs() & block::permit_write)
        return fail("Device '{}' is written by {}; snapshots have to wait for its end", disk.name, e->user());
    out.all.push_back(std::move(disk));
  }
  if (which.devices)
    for (const std::string& name : *which.devices)
      if (std::ranges::find(found, name) == found.end()) return fail("No block device node '{}'", name);
  for (const Disk& d : out.all) {
    if (!d.qcow2 || out.vm_state) continue;
    if (!which.vm_state || d.node->node_name() == *which.vm_state) out.vm_state = d.qcow2;
  }
  if (!out.vm_state) {
    if (which.vm_state) return fail("vmstate block device '{}' does not exist, or cannot keep snapshots", *which.vm_state);
    return fail("No block device can accept snapshots");
  }
  return out;
}

const block::qcow2::Snapshot* find_in(const block::Qcow2& disk, std::string_view name) {
  const auto at = std::ranges::find_if(disk.snapshots(), [&](const auto& s) { return s.name == name; });
  return at == disk.snapshots().end() ? nullptr : &*at;
}

// The stream, behind a disk. For a thread that may wait; some pieces are on their way while it makes the next.
class StateSink final : public Sink {
 public:
  StateSink(EventLoop& loop, block::Qcow2& disk) : loop_(loop), disk_(disk) {}
  ~StateSink() override { wait_for_all(); }
  Result<> write(std::span<const u8> bytes) override {
    while (!bytes.empty()) {
      if (!buffer_) TRY(take_buffer());
      const usize n = std::min<usize>(bytes.size(), piece_bytes - filled_);
      std::ranges::copy(bytes.first(n), buffer_->begin() + static_cast<std::ptrdiff_t>(filled_));
      filled_ += n, bytes = bytes.subspan(n);
      if (filled_ == piece_bytes) send();
    }
    return {};
  }
  // All of it is with the disk.
  Result<> finish() {
    if (filled_) {
      const usize whole = align_up(filled_, 512);
      std::fill(buffer_->begin() + static_cast<std::ptrdiff_t>(filled_), buffer_->begin() + static_cast<std::ptrdiff_t>(whole), u8{0});
      send();
    }
    wait_for_all();
    return std::exchange(failure_, Result<>{});
  }
  u64 bytes() const { return bytes_ + filled_; }

 private:
  using Buffer = std::unique_ptr<std::vector<u8>>;
  Result<> take_buffer() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return on_their_way_ < most_on_their_way; });
    if (!failure_) return failure_;
    if (free_.empty())
      buffer_ = std::make_unique<std::vector<u8>>(piece_bytes);
    else
      buffer_ = std::move(free_.back()), free_.pop_back();
    return {};
  }
  void send() {
    const u64 at = bytes_;
    bytes_ += filled_;
    const usize bytes = align_up(std::exchange(filled_, 0), 512);
    {
      const std::lock_guard lock{mutex_};
      on_their_way_++;
    }
    loop_.post([this, at, bytes, raw = buffer_.release()] {
      disk_.write_vm_state(at, block::IoVector{std::span{*raw}.first(bytes)}).start([this, raw](Result<> done) {
        const std::lock_guard lock{mutex_};
        free_.emplace_back(raw);
        if (!done && failure_) failure_ = std::move(done);
        on_their_way_--;
        changed_.notify_all();
      });
    });
  }
  void wait_for_all() {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return on_their_way_ == 0; });
  }
  static constexpr unsigned most_on_their_way = 4;
  EventLoop& loop_;
  block::Qcow2& disk_;
  Buffer buffer_;
  usize filled_ = 0;
  u64 bytes_ = 0;
  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  unsigned on_their_way_ = 0;
  Result<> failure_;
  std::vector<Buffer> free_;
};

// Some pieces are read ahead.
class StateSource final : public Source {
 public:
  StateSource(EventLoop& loop, block::Qcow2& disk, u64 bytes) : loop_(loop), disk_(disk), bytes_(bytes) {
    for (Piece& p : pieces_) ask(p);
  }
  ~StateSource() override {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return std::ranges::none_of(pieces_, [](const Piece& p) { return p.on_its_way; }); });
  }
  Result<> read(std::span<u8> bytes) override {
    while (!bytes.empty()) {
      Piece& p = pieces_[turn_];
      {
        std::unique_lock lock{mutex_};
        changed_.wait(lock, [&] { return !p.on_its_way; });
      }
      if (!p.done) return p.done;
      if (p.used == p.bytes.size()) return fail("the machine's state ends too early");
      const usize n = std::min(bytes.size(), p.bytes.size() - p.used);
      std::copy_n(p.bytes.begin() + static_cast<std::ptrdiff_t>(p.used), n, bytes.begin());
      p.used += n, bytes = bytes.subspan(n);
      if (p.used < p.bytes.size()) continue;
      ask(p);
      turn_ = (turn_ + 1) % pieces_.size();
    }
    return {};
  }

 private:
  struct Piece {
    std::vector<u8> bytes;
    usize used = 0;
    bool on_its_way = false;
    Result<> done;
  };
  void ask(Piece& p) {
    p.bytes.resize(std::min(bytes_ - asked_, piece_bytes));
    p.used = 0;
    if (p.bytes.empty()) return;
    const u64 at = std::exchange(asked_, asked_ + p.bytes.size());
    p.on_its_way = true;
    loop_.post([this, at, &p] {
      disk_.read_vm_state(at, block::IoVector{std::span{p.bytes}}).start([this, &p](Result<> done) {
        const std::lock_guard lock{mutex_};
        p.done = std::move(done);
        p.on_its_way = false;
        changed_.notify_all();
      });
    });
  }
  EventLoop& loop_;
  block::Qcow2& disk_;
  const u64 bytes_;
  u64 asked_ = 0;
  usize turn_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Piece, 4> pieces_;
};

// --- Saving

// What the parts of a save share; its thread and the tasks that it starts on the main loop take turns.
struct Save {
  vm::Machine& machine;
  std::string name;
  Disks disks;
  MachineOut out{machine};
  vm::Status status_before = vm::Status::paused;
  bool stands = false;
  u64 clock = 0, state_bytes = 0;
  std::vector<Value> sections, images;
  std::vector<std::vector<u8>> pages;                       // of RAM that had to be copied while the machine stood
  std::vector<std::pair<block::Qcow2*, std::string>> made;  // and their ids
};

std::vector<block::Qcow2*> qcow2_disks(const Save& s) {
  std::vector<block::Qcow2*> out;
  for (const Disk& d : s.disks.all)
    if (d.qcow2) out.push_back(d.qcow2);
  return out;
}

Error within_disk(Error e, const Save& s, const block::Qcow2* disk) {
  const auto d = std::ranges::find_if(s.disks.all, [&](const Disk& known) { return known.qcow2 == disk; });
  e.message = format("Error while creating snapshot on '{}': {}", d->name, e.message);
  return e;
}

Result<> write_ram(Save& s, Writer& writer) {
  std::vector<u8> room;
  return s.out.send_due(
      [&](u32 block, u64 first, u64 count) { return writer.part(Part::pages, s.out.build_pages(block, first, count, room)); });
}

// What the moment needs is made ready while the machine runs.
Task<> prepare(Save& s) {
  block::AtRest rest;
  co_await rest.begin();
  co_await s.disks.vm_state->drop_vm_state();
  // Passes over RAM may each write all of it, which none but the first does; what would be more is written while the machine stands.
  co_await s.disks.vm_state->reserve_vm_state(2 * s.out.total_bytes() + 128 * MiB);
  for (block::Qcow2* const disk : qcow2_disks(s)) {
    auto done = co_await attempt(disk->prepare_to_hold());
    if (!done) co_return std::unexpected(within_disk(std::move(done).error(), s, disk));
  }
  co_return Result<>{};
}

Task<> copy_images(Save& s) {
  for (const Disk& d : s.disks.all) {
    if (d.qcow2) continue;
    auto edge = block::Edge::make(d.node, "snapshot", "a snapshot", block::Role::user, block::permit_read, block::permit_all);
    if (!edge) co_return std::unexpected(std::move(edge).error());
    for (u64 at = 0; at < (*edge)->length_bytes(); at += piece_bytes) {
      std::vector<u8> bytes(std::min(piece_bytes, (*edge)->length_bytes() - at));
      co_await (*edge)->read(at, block::IoVector{std::span{bytes}});
      s.images.push_back(Value::object().set("name", d.name).set("at", at).set("bytes", Value{std::move(bytes)}));
    }
  }
  co_return Result<>{};
}

// The moment. The machine stands from here until go_on().
Task<> hold_disks(Save& s) {
  block::AtRest rest;
  co_await rest.begin();
  for (block::Qcow2* const disk : qcow2_disks(s)) {
    auto done = co_await attempt(disk->hold());
    if (!done) co_return std::unexpected(within_disk(std::move(done).error(), s, disk));
  }
  co_return co_await copy_images(s);
}
void stand_still(Save& s) {
  vm::RunState& state = s.machine.run_state();
  s.status_before = state.status(), s.stands = true;
  state.stop(vm::Status::save_vm);
  if (!state.running()) vm::stand(state, vm::Status::save_vm);
  block::drain_all(s.machine.main_loop());
  s.clock = static_cast<u64>(s.machine.time_domain().now(Clock::guest).count());
  s.sections = s.out.sections(s.status_before);
}
void go_on(Save& s) {
  if (!std::exchange(s.stands, false)) return;
  vm::RunState& state = s.machine.run_state();
  vm::stand(state, s.status_before == vm::Status::running ? vm::Status::paused : s.status_before);
  if (s.status_before == vm::Status::running) state.start();
}

Task<> make_snapshots(Save& s) {
  block::AtRest rest;
  co_await rest.begin();
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  for (block::Qcow2* const disk : qcow2_disks(s)) {
    const block::qcow2::Snapshot snapshot{.name = s.name,
                                          .seconds = static_cast<u32>(now.tv_sec),
                                          .nanoseconds = static_cast<u32>(now.tv_nsec),
                                          .vm_clock = s.clock,
                                          .vm_state_bytes = disk == s.disks.vm_state ? s.state_bytes : 0};
    auto done = co_await attempt(disk->keep_held(snapshot));
    if (!done) co_return std::unexpected(within_disk(std::move(done).error(), s, disk));
    s.made.emplace_back(disk, disk->snapshots().back().id);
  }
  // This one is whole: older ones of its name go.
  for (const auto& [disk, id] : s.made)
    for (;;) {
      const auto old = std::ranges::find_if(disk->snapshots(), [&](const auto& o) { return o.name == s.name && o.id != id; });
      if (old == disk->snapshots().end()) break;
      co_await disk->delete_snapshot(std::string{old->id});
    }
  s.made.clear();
  co_return Result<>{};
}

// RAM that cannot be frozen: most of it is written while the machine runs, what is left is copied while it stands.
Result<> write_most(Save& s, Writer& writer, const StateSink& sink) {
  u64 before = ~u64{0};
  for (unsigned pass = 0; pass < most_passes; pass++) {
    TRY(write_ram(s, writer));
    {
      MachineLocked lock;
      s.out.harvest();
    }
    const u64 due = s.out.due_pages();
    if (due <= few_pages || due > before / 2 || sink.bytes() + due * page > s.out.total_bytes() * 7 / 4) break;
    before = due;
  }
  return {};
}
Result<> copy_rest(Save& s, Writer& writer) {
  if (s.out.due_pages() > most_copied_pages) TRY(write_ram(s, writer));
  std::vector<u8> room;
  return s.out.send_due([&](u32 block, u64 first, u64 count) -> Result<> {
    const auto payload = s.out.build_pages(block, first, count, room);
    s.pages.emplace_back(payload.begin(), payload.end());
    return {};
  });
}

// At the moment: RAM is frozen, or the machine goes on and says no.
bool freeze(Save& s) {
  stand_still(s);
  const auto frozen = s.out.freeze();
  if (!frozen) go_on(s);
  return frozen.has_value();
}

Result<> write_frozen(Save& s, Writer& writer) {
  for (;;) {
    const auto payload = TRY(s.out.frozen()->next());
    if (payload.empty()) return {};
    TRY(writer.part(Part::pages, payload));
  }
}

// On a worker thread.
Result<> write_snapshot(Save& s) {
  EventLoop& loop = s.machine.main_loop();
  StateSink sink{loop, *s.disks.vm_state};
  Writer writer{sink};
  const auto here = [&](auto work) { return on_loop(loop, [&]() -> Result<> { return work(), Result<>{}; }); };
  TRY(here([&] { s.out.list(); }));
  TRY(task_on_loop(loop, [&] { return prepare(s); }));
  TRY(s.out.write_machine(writer, 0));
  bool frozen = false;
  TRY(here([&] { frozen = freeze(s); }));
  if (!frozen) {
    TRY(here([&] { s.out.begin(); }));
    TRY(write_most(s, writer, sink));
    TRY(here([&] {
      stand_still(s);
      s.out.harvest();
    }));
    TRY(copy_rest(s, writer));
  }
  TRY(task_on_loop(loop, [&] { return hold_disks(s); }));
  TRY(here([&] {
    s.out.end();
    go_on(s);
  }));
  for (const Value& section : s.sections) TRY(writer.described(Part::section, section));
  for (const Value& image : s.images) TRY(writer.described(Part::image, image));
  if (frozen) TRY(write_frozen(s, writer));
  for (const auto& payload : s.pages) TRY(writer.part(Part::pages, payload));
  TRY(writer.part(Part::end, std::span<const u8>{}));
  s.state_bytes = sink.bytes();
  TRY(sink.finish());
  // Most of it is on the disk before the drives have to rest.
  TRY(task_on_loop(loop, [&] { return s.disks.vm_state->flush(); }));
  return task_on_loop(loop, [&] { return make_snapshots(s); });
}

Task<> undo(Save& s) {
  block::AtRest rest;
  co_await rest.begin();
  for (const auto& [disk, id] : s.made) (void)co_await attempt(disk->delete_snapshot(id));
  for (block::Qcow2* const disk : qcow2_disks(s)) (void)co_await attempt(disk->release_held());
  co_return co_await s.disks.vm_state->drop_vm_state();
}

// --- Loading

struct Load {
  vm::Machine& machine;
  std::string name;
  Disks disks;
  MachineIn in{machine, true};
  u64 state_bytes = 0;
};

// Another disk, or part of the machine, may be gone in the middle of this.
Task<> apply_snapshots(Load& l) {
  block::AtRest rest;
  co_await rest.begin();
  for (const Disk& d : l.disks.all) {
    if (!d.qcow2) continue;
    const auto* found = find_in(*d.qcow2, l.name);
    if (!found) co_return fail("Device '{}' does not have the requested snapshot '{}'", d.name, l.name);
    const std::string id = found->id;
    auto done = co_await attempt(d.qcow2->apply_snapshot(id));
    if (!done) {
      Error e = std::move(done).error();
      e.message = format("Could not load snapshot '{}' on '{}': {}", l.name, d.name, e.message);
      co_return std::unexpected(std::move(e));
    }
  }
  for (const auto& b : block::all_backends())
    if (b->node()) b->medium_replaced();
  co_return co_await l.disks.vm_state->show_vm_state(find_in(*l.disks.vm_state, l.name)->id);
}

Result<> check_images(const Load& l, const MachineIn& in) {
  for (const Disk& d : l.disks.all) {
    if (d.qcow2) continue;
    const auto image = in.images().find(d.name);
    if (image == in.images().end()) return fail("the snapshot has nothing of device '{}'", d.name);
    if (image->second.size() != d.node->length_bytes())
      return fail("device '{}' has {} bytes in the snapshot and {} here", d.name, image->second.size(), d.node->length_bytes());
  }
  return {};
}

Task<> restore_images(Load& l) {
  if (auto known = check_images(l, l.in); !known) co_return known;
  for (const Disk& d : l.disks.all) {
    if (d.qcow2) continue;
    const auto image = l.in.images().find(d.name);
    for (const block::Edge* e : d.node->parents()) {
      if (e->parent() || !(e->needs() & block::permit_write)) continue;
      std::vector<u8> bytes = image->second;
      co_await const_cast<block::Edge*>(e)->write(0, block::IoVector{std::span{bytes}});
      break;
    }
  }
  co_return Result<>{};
}

// What would fail later, seen before anything is changed: of another machine, or with other devices. On a worker thread; the machine may
// run.
Result<> look_at_snapshot(Load& l) {
  EventLoop& loop = l.machine.main_loop();
  // A disk of another size shows it only after it has gone back; older streams have sections last: so they fail late.
  if (!task_on_loop(loop, [&] { return l.disks.vm_state->show_vm_state(find_in(*l.disks.vm_state, l.name)->id); })) return {};
  StateSource source{loop, *l.disks.vm_state, l.state_bytes};
  Reader reader{source};
  MachineIn seen{l.machine, true};
  TRY(seen.begin(reader));
  bool sections = false;
  for (;;) {
    const auto part = TRY(reader.next());
    if (part.kind != Part::section && part.kind != Part::image) break;
    sections = true;
    TRY(seen.take(part));
  }
  if (!sections) return {};
  return on_loop(loop, [&]() -> Result<> {
    TRY(check_images(l, seen));
    return seen.check();
  });
}

// On a worker thread; the machine stands.
Result<> read_snapshot(Load& l) {
  EventLoop& loop = l.machine.main_loop();
  TRY(task_on_loop(loop, [&] { return apply_snapshots(l); }));
  TRY(on_loop(loop, [&]() -> Result<> {
    l.machine.run_state().reset_now(vm::Cause::none);
    return {};
  }));
  StateSource source{loop, *l.disks.vm_state, l.state_bytes};
  Reader reader{source};
  if (TRY(l.in.begin(reader))) return fail("the snapshot would come on several connections");
  for (;;) {
    const auto part = TRY(reader.next());
    if (part.kind == Part::end) break;
    TRY(l.in.take(part));
  }
  TRY(on_loop(loop, [&] { return l.in.commit(); }));
  return task_on_loop(loop, [&] { return restore_images(l); });
}

// One at a time: the monitor answers while one is under way.
bool under_way = false;
class Turn {
 public:
  Turn() : mine_(!std::exchange(under_way, true)) {}
  ~Turn() {
    if (mine_) under_way = false;
  }
  Turn(const Turn&) = delete;
  bool mine() const { return mine_; }

 private:
  const bool mine_;
};
constexpr std::string_view busy = "another snapshot is being taken, loaded or deleted";

}  // namespace

Task<> save_snapshot(vm::Machine& machine, std::string name, SnapshotDisks which) {
  const Turn turn;
  if (!turn.mine()) co_return fail("{}", busy);
  if (name.empty()) co_return fail("a snapshot needs a name");
  if (block::images_inactive()) co_return fail("the machine's disks are not in use here");
  auto disks = find_disks(which);
  if (!disks) co_return std::unexpected(std::move(disks).error());
  Save save{.machine = machine, .name = std::move(name), .disks = std::move(*disks)};
  auto done = co_await attempt(worker_pool().run<void>(machine.main_loop(), [&save] { return write_snapshot(save); }));
  save.out.end();
  save.out.thaw();
  if (!done) (void)co_await attempt(undo(save));
  go_on(save);
  co_return done;
}

Task<> load_snapshot(vm::Machine& machine, std::string name, SnapshotDisks which) {
  const Turn turn;
  if (!turn.mine()) co_return fail("{}", busy);
  if (block::images_inactive()) co_return fail("the machine's disks are not in use here");
  auto disks = find_disks(which);
  if (!disks) co_return std::unexpected(std::move(disks).error());
  Load load{.machine = machine, .name = std::move(name), .disks = std::move(*disks)};
  for (const Disk& d : load.disks.all)
    if (d.qcow2 && !find_in(*d.qcow2, load.name))
      co_return fail("Device '{}' does not have the requested snapshot '{}'", d.name, load.name);
  load.state_bytes = find_in(*load.disks.vm_state, load.name)->vm_state_bytes;
  if (!load.state_bytes) co_return fail("This is a disk-only snapshot. Revert to it offline using qemu-img");
  const Result<> seen = co_await attempt(worker_pool().run<void>(machine.main_loop(), [&load] { return look_at_snapshot(load); }));
  load.disks.vm_state->hide_vm_state();
  if (!seen) co_return fail("Error while loading snapshot '{}': {}", load.name, seen.error().message);
  vm::RunState& state = machine.run_state();
  const vm::Status before = state.status();
  state.stop(vm::Status::restore_vm);
  vm::stand(state, vm::Status::restore_vm);
  block::drain_all(machine.main_loop());
  auto done = co_await attempt(worker_pool().run<void>(machine.main_loop(), [&load] { return read_snapshot(load); }));
  load.disks.vm_state->hide_vm_state();
  vm::stand(state, vm::Status::paused);
  if (!done) {
    Error e = std::move(done).error();
    e.message = format("Error while loading snapshot '{}': {}; the machine is paused", load.name, e.message);
    co_return std::unexpected(std::move(e));
  }
  if (before == vm::Status::running) state.start();
  co_return Result<>{};
}

Task<> delete_snapshot(std::string name, SnapshotDisks which) {
  const Turn turn;
  if (!turn.mine()) co_return fail("{}", busy);
  if (block::images_inactive()) co_return fail("the machine's disks are not in use here");
  auto disks = find_disks(which);
  if (!disks) co_return std::unexpected(std::move(disks).error());
  block::AtRest rest;
  co_await rest.begin();
  bool found = false;
  for (const Disk& d : disks->all)
    if (d.qcow2)
      while (const auto* s = find_in(*d.qcow2, name)) {
        found = true;
        const std::string id = s->id;
        co_await d.qcow2->delete_snapshot(id);
      }
  if (!found) co_return fail("Snapshot '{}' does not exist", name);
  co_return Result<>{};
}

namespace {
std::string size_text(u64 bytes) {
  double n = static_cast<double>(bytes);
  for (const char* unit : {"B", "KiB", "MiB", "GiB"}) {
    if (n < 1000) return format("{:.3g} {}", n, unit);
    n /= 1024;
  }
  return format("{:.3g} TiB", n);
}
}  // namespace

std::string describe_snapshots() {
  auto disks = find_disks({});
  if (!disks) return disks.error().message + "\n";
  std::string text;
  for (const auto& s : disks->vm_state->snapshots()) {
    const bool everywhere = std::ranges::all_of(disks->all, [&](const Disk& d) { return !d.qcow2 || find_in(*d.qcow2, s.name); });
    if (!everywhere || !s.vm_state_bytes) continue;
    const std::time_t seconds = s.seconds;
    std::tm local{};
    ::localtime_r(&seconds, &local);
    char date[64];
    std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &local);
    const u64 clock = s.vm_clock / 1'000'000'000;
    text += format("{:<9} {:<16} {:>8} {:>19} {:>12} {:>10}\n", "--", s.name, size_text(s.vm_state_bytes), date,
                   format("{:02}:{:02}:{:02}.{:03}", clock / 3600, clock / 60 % 60, clock % 60, s.vm_clock / 1'000'000 % 1000), "");
  }
  if (text.empty()) return "There is no snapshot available.\n";
  return "List of snapshots present on all disks:\n" +
         format("{:<9} {:<16} {:>8} {:>19} {:>12} {:>10}\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT") + text;
}

}  // namespace vmm::migration

#include "tests/unit/block/recorder.h"

#include <algorithm>

#include "src/event/worker_pool.h"
#include "tests/unit/test.h"

namespace vmm::block::test {

Task<> Recorder::open(Value) { co_return Result<>{}; }
Limits Recorder::limits() const { return {.fua = true}; }

Task<> Recorder::step() {
  if (++calls == fail_call) co_return fail_os(fail_with);
  for (u32 turns = slow ? 1 + static_cast<u32>(turns_() % most_turns) : 0; turns; turns--) co_await switch_to(loop());
  co_return Result<>{};
}

void Recorder::note_overlap(u64 offset, u64 length) {
  std::erase_if(under_way_, [this](usize at) { return at >= log.size() || log[at].done; });
  for (const usize at : under_way_)
    if (log[at].offset < offset + length && offset < log[at].offset + log[at].length) overlapping_writes++;
  under_way_.push_back(log.size());
}

Task<> Recorder::read(u64 offset, IoVector into) {
  co_await step();
  const u64 here = offset < bytes.size() ? std::min<u64>(into.size(), bytes.size() - offset) : 0;
  IoVector inside = into.take(here);
  if (here) inside.copy_in(std::span{bytes}.subspan(offset, here));
  into.fill(0);
  co_return Result<>{};
}
Task<> Recorder::write(u64 offset, IoVector from, WriteFlags flags) {
  Logged entry{
      .kind = Logged::Kind::write, .offset = offset, .length = from.size(), .data = std::vector<u8>(from.size()), .fua = flags.fua};
  from.copy_out(entry.data);
  if (offset + from.size() > most_bytes) co_return fail_os(ENOSPC);
  note_overlap(offset, entry.length);
  const usize at = log.size();
  log.push_back(std::move(entry));
  auto done = co_await attempt(step());
  if (!done) {
    log[at].done = true;  // a failed write may have happened as well
    co_return done;
  }
  if (bytes.size() < offset + from.size()) bytes.resize(offset + from.size());
  std::ranges::copy(log[at].data, bytes.begin() + i64(offset));
  log[at].done = true;
  if (flags.fua) log[at].stable_at = log.size() - 1;
  co_return Result<>{};
}
Task<> Recorder::zero(u64 offset, u64 length, ZeroFlags flags) {
  if (offset + length > most_bytes) co_return fail_os(ENOSPC);
  note_overlap(offset, length);
  const usize at = log.size();
  log.push_back({.kind = Logged::Kind::zero, .offset = offset, .length = length, .fua = flags.fua});
  co_await step();
  if (bytes.size() < offset + length) bytes.resize(offset + length);
  std::fill_n(bytes.begin() + i64(offset), length, u8{0});
  log[at].done = true;
  if (flags.fua) log[at].stable_at = log.size() - 1;
  co_return Result<>{};
}
Task<> Recorder::discard(u64 offset, u64 length) {
  length = offset < bytes.size() ? std::min(length, bytes.size() - offset) : 0;
  if (!length) co_return Result<>{};
  co_return co_await zero(offset, length, {});
}
Task<> Recorder::truncate(u64 length, Preallocation) {
  const usize at = log.size();
  if (length > most_bytes) co_return fail_os(ENOSPC);
  log.push_back({.kind = Logged::Kind::truncate, .length = length});
  co_await step();
  bytes.resize(length);
  log[at].done = true;
  co_return Result<>{};
}
Task<> Recorder::flush() {
  // Only what has ended before is covered.
  std::vector<usize> covered;
  for (usize i = 0; i < log.size(); i++)
    if (log[i].done && log[i].stable_at == ~u64{0}) covered.push_back(i);
  co_await step();
  const u64 index = log.size();
  log.push_back({.kind = Logged::Kind::flush, .done = true});
  for (const usize i : covered) log[i].stable_at = std::min(log[i].stable_at, index);
  co_return Result<>{};
}

void Recorder::start_recording() {
  initial_ = bytes;
  log.clear();
}

std::vector<u8> Recorder::after_cut(usize entries, std::mt19937_64& random) const {
  std::vector<u8> image = initial_;
  const unsigned keep = unsigned(random() % 5);  // of four: none, few, half, most, all
  for (usize i = 0; i < entries && i < log.size(); i++) {
    const Logged& e = log[i];
    const bool stable = e.stable_at < entries;
    if (!stable && random() % 4 >= keep) continue;
    switch (e.kind) {
      case Logged::Kind::flush: break;
      case Logged::Kind::truncate: image.resize(e.length); break;
      case Logged::Kind::write:
      case Logged::Kind::zero: {
        const bool torn = !stable && random() % 4 == 0;
        for (u64 at = 0; at < e.length;) {
          const u64 sector_end = (e.offset + at) / 512 * 512 + 512 - e.offset;
          const u64 end = std::min(e.length, sector_end);
          if (!torn || random() % 2) {
            if (image.size() < e.offset + end) image.resize(e.offset + end);
            for (; at < end; at++) image[e.offset + at] = e.kind == Logged::Kind::zero ? 0 : e.data[at];
          }
          at = end;
        }
        break;
      }
    }
  }
  return image;
}

std::shared_ptr<Recorder> make_recorder(EventLoop& loop, std::string node_name, std::vector<u8> bytes) {
  Value options = Value::object();
  options.set("driver", "recorder").set("node-name", std::move(node_name)).set("discard", "unmap");
  auto node = std::static_pointer_cast<Recorder>(OK(run_task(loop, open_node(loop, std::move(options)))));
  node->bytes = std::move(bytes);
  node->start_recording();
  return node;
}

namespace {
RegisteredDriver registered{{.name = "recorder",
                             .doc = "Test: a file in memory that remembers.",
                             .kind = BlockDriver::Kind::protocol,
                             .make = make_node<Recorder>}};

TEST(recorder_keeps_what_a_flush_acknowledged) {
  EventLoop loop;
  auto file = make_recorder(loop, "recorded");
  auto edge = OK(Edge::make(file, "root", "test", Role::file, permit_all, permit_all));
  std::vector<u8> ones(2048, 1), twos(2048, 2);
  OK(run_task(loop, edge->write(0, IoVector::of(ones))));
  OK(run_task(loop, edge->flush()));
  OK(run_task(loop, edge->write(1024, IoVector::of(twos))));
  std::mt19937_64 random{7};
  bool lost = false, torn = false, kept = false;
  for (unsigned i = 0; i < 200; i++) {
    const auto image = file->after_cut(file->log.size(), random);
    CHECK(std::all_of(image.begin(), image.begin() + 1024, [](u8 b) { return b == 1; }));
    CHECK(image[1024] == 1 || image[1024] == 2);
    const auto twos_kept = std::ranges::count(image, 2);
    lost |= twos_kept == 0, kept |= twos_kept == 2048, torn |= twos_kept > 0 && twos_kept < 2048;
  }
  CHECK(lost && torn && kept);
  edge.reset();
  OK(run_task(loop, release(std::move(file))));
}
}  // namespace

}  // namespace vmm::block::test

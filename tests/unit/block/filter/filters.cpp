// Filters over files in memory.
#include "block/core/throttle.h"
#include "tests/unit/block/recorder.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::block;
using block::test::make_recorder;
using block::test::Recorder;

namespace {
struct Over {
  EventLoop loop;
  std::shared_ptr<Recorder> file = make_recorder(loop, "memory", std::vector<u8>(64 * KiB, 3));
  NodeRef node;
  Child edge;
  explicit Over(std::string_view json, u8 needs = permit_read | permit_write) {
    node = OK(run_task(loop, open_node(loop, OK(parse_json(json)))));
    edge = OK(Edge::make(node, "root", "test", Role::user, needs, permit_all));
  }
  ~Over() {
    edge.reset();
    (void)run_task(loop, release(std::move(node)));
    (void)run_task(loop, release(std::move(file)));
  }
  int write(u64 offset, u64 bytes, u8 value = 9) {
    std::vector<u8> data(bytes, value);
    auto done = run_task(loop, edge->write(offset, IoVector::of(data)));
    return done ? 0 : error_number(done.error());
  }
  int read(u64 offset, u64 bytes) {
    std::vector<u8> data(bytes);
    auto done = run_task(loop, edge->read(offset, IoVector{data}));
    return done ? 0 : error_number(done.error());
  }
};
}  // namespace

TEST(blkdebug_fails_the_requests_that_its_rules_name) {
  Over over{R"({"driver": "blkdebug", "image": "memory", "inject-error": [
    {"event": "none", "iotype": "write", "errno": 28, "sector": 4, "once": true},
    {"event": "none", "iotype": "flush", "errno": 5}]})"};
  CHECK_EQ(over.write(0, 512), 0);
  CHECK_EQ(over.write(1024, 2048), ENOSPC);
  CHECK_EQ(over.write(1024, 2048), 0);
  CHECK_EQ(over.read(1024, 2048), 0);
  auto flushed = run_task(over.loop, over.edge->flush());
  CHECK(!flushed && error_number(flushed.error()) == EIO);
}

TEST(blkdebug_gives_its_alignment_and_the_graph_keeps_to_it) {
  Over over{R"({"driver": "blkdebug", "image": "memory", "align": 4096})"};
  CHECK_EQ(over.write(5000, 100), 0);
  CHECK_EQ(over.file->log.back().offset, 4096u);
  CHECK_EQ(over.file->log.back().length, 4096u);
  std::vector<u8> bytes(4096);
  OK(run_task(over.loop, over.edge->read(4000, IoVector{bytes})));
  for (u64 i = 0; i < 4096; i++) CHECK_EQ(bytes[i], i >= 1000 && i < 1100 ? 9 : 3);
}

TEST(unaligned_writes_side_by_side_lose_nothing) {
  Over over{R"({"driver": "blkdebug", "image": "memory", "align": 4096})"};
  over.file->slow = true;
  std::vector<std::vector<u8>> data;
  for (u8 i = 0; i < 32; i++) data.emplace_back(100, u8(i + 10));
  unsigned left = 32;
  for (u8 i = 0; i < 32; i++)
    over.edge->write(i * 100, IoVector::of(data[i])).start([&](Result<> r) {
      CHECK(r.has_value());
      left--;
    });
  while (left) over.loop.run_once(true);
  for (u64 i = 0; i < 3200; i++) CHECK_EQ(over.file->bytes[i], i / 100 + 10);
}

TEST(blkverify_tells_where_two_images_differ) {
  EventLoop loop;
  auto other = make_recorder(loop, "other", std::vector<u8>(64 * KiB, 3));
  other->bytes[700] = 4;
  {
    Over over{R"({"driver": "blkverify", "test": "memory", "raw": "other"})"};
    CHECK_EQ(over.read(0, 512), 0);
    CHECK_EQ(over.read(512, 512), EILSEQ);
    CHECK_EQ(over.write(512, 512), 0);
    CHECK_EQ(over.read(512, 512), 0);
  }
  OK(run_task(loop, release(std::move(other))));
}

TEST(preallocate_grows_the_file_in_steps_and_gives_the_rest_back) {
  std::shared_ptr<Recorder> file;
  {
    Over over{R"({"driver": "preallocate", "file": "memory", "prealloc-size": 1048576})", permit_all};
    OK(run_task(over.loop, over.edge->truncate(64 * KiB)));
    over.edge.reset();
    over.edge = OK(Edge::make(over.node, "root", "test", Role::file, permit_all, permit_all));
    CHECK_EQ(over.write(64 * KiB, 4096), 0);
    CHECK(over.file->bytes.size() >= 1 * MiB);
    CHECK_EQ(over.edge->length_bytes(), 68 * KiB);
    over.edge.reset();
    file = over.file;
    over.edge = nullptr;
    OK(run_task(over.loop, over.node->close()));
  }
}

TEST(detect_zeroes_turns_zeros_into_zero_requests) {
  Over over{R"({"driver": "raw", "file": "memory", "detect-zeroes": "unmap", "discard": "unmap"})"};
  CHECK_EQ(over.write(4096, 4096, 0), 0);
  CHECK(over.file->log.back().kind == block::test::Logged::Kind::zero);
  CHECK_EQ(over.write(4096, 4096, 1), 0);
  CHECK(over.file->log.back().kind == block::test::Logged::Kind::write);
}

TEST(throttle_lets_through_what_its_limits_say) {
  Throttle throttle;
  throttle.set_limits({.iops_total = 100});
  Nanoseconds now = 1s;
  Nanoseconds last{};
  for (unsigned i = 0; i < 1000; i++) last = throttle.take(i & 1, 4096, now);
  // A tenth of a second's requests go at once, the others one each 10 ms.
  CHECK(last > 9800ms && last < 10s);
  Throttle burst;
  burst.set_limits({.bps_read = 1'000'000, .bps_read_max = 10'000'000});
  CHECK_EQ(burst.take(false, 5'000'000, now).count(), 0);
  CHECK_EQ(burst.take(false, 5'000'000, now).count(), 0);
  (void)burst.take(false, 1'000'000, now);
  CHECK(burst.take(false, 1, now) >= 990ms);
  CHECK_EQ(burst.take(true, 50'000'000, now).count(), 0);
  CHECK(!check_limits({.bps_total = 1, .bps_read = 1}));
  CHECK(!check_limits({.iops_total_max = 5}));
}

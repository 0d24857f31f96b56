// The drive of tests.
#include "tests/unit/hw/bench_disk.h"

namespace vmm::test {

namespace {
const block::RegisteredDriver registered{
    {.name = "bench-memory", .doc = "For tests.", .kind = block::BlockDriver::Kind::protocol, .make = block::make_node<BenchNode>}};
}  // namespace

Task<> BenchNode::ready() {
  while (hold) co_await waiting_.wait();
  if (fail_with) co_return fail_os(fail_with);
  co_return Result<>{};
}
Task<> BenchNode::read(u64 offset, block::IoVector into) {
  co_await ready();
  into.copy_in(std::span{bytes}.subspan(offset));
  co_return Result<>{};
}
Task<> BenchNode::write(u64 offset, block::IoVector from, block::WriteFlags) {
  co_await ready();
  from.copy_out(std::span{bytes}.subspan(offset));
  co_return Result<>{};
}
Task<> BenchNode::flush() {
  co_await ready();
  flushes++;
  co_return Result<>{};
}
Task<> BenchNode::zero(u64 offset, u64 length, block::ZeroFlags) {
  co_await ready();
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), length, u8{0});
  co_return Result<>{};
}
Task<> BenchNode::discard(u64, u64 length) {
  co_await ready();
  discarded += length;
  co_return Result<>{};
}

BenchDisk::BenchDisk(DeviceBench& bench, std::string id, u64 bytes, bool read_only) : bench_(bench) {
  Value options = Value::object();
  options.set("driver", "bench-memory");
  options.set("node-name", id + "-node");
  options.set("discard", "unmap");
  if (read_only) options.set("read-only", true);
  block::NodeRef node = OK(run_task(bench.machine().main_loop(), block::open_node(bench.machine().main_loop(), std::move(options))));
  node_ = dynamic_cast<BenchNode*>(node.get());
  node_->bytes.resize(bytes);
  backend_ = OK(block::make_backend({.id = std::move(id), .read_only = read_only}));
  OK(backend_->insert(std::move(node)));
}

BenchDisk::~BenchDisk() {
  node_->fail_with = 0;
  node_->go_on();
  (void)run_task(bench_.machine().main_loop(), backend_->remove_medium());
  block::forget_backend(backend_);
}

}  // namespace vmm::test

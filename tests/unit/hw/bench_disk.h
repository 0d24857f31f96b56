// A drive in memory whose failures and delays the test decides. Make it after the bench.
#pragma once

#include <deque>

#include "block/core/backend.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {

class BenchNode final : public block::BlockNode {
 public:
  std::vector<u8> bytes;
  int fail_with = 0;  // errno of the next requests, until set to 0
  bool hold = false;  // requests wait for go_on()
  u64 flushes = 0, discarded = 0;
  void go_on() {
    hold = false;
    waiting_.wake_all();
  }
  Task<> read(u64 offset, block::IoVector into) override;
  Task<> write(u64 offset, block::IoVector from, block::WriteFlags flags) override;
  Task<> flush() override;
  Task<> zero(u64 offset, u64 length, block::ZeroFlags flags) override;
  Task<> discard(u64 offset, u64 length) override;
  Task<> open(Value) override { co_return Result<>{}; }
  u64 length_bytes() const override { return bytes.size(); }

 private:
  Task<> ready();
  WaitList waiting_;
};

class BenchDisk {
 public:
  explicit BenchDisk(DeviceBench& bench, std::string id = "disk", u64 bytes = 64 * KiB, bool read_only = false);
  ~BenchDisk();
  BenchDisk(const BenchDisk&) = delete;
  BenchNode* operator->() const { return node_; }
  block::Backend& backend() const { return *backend_; }

 private:
  DeviceBench& bench_;
  block::BackendRef backend_;
  BenchNode* node_ = nullptr;
};

}  // namespace vmm::test

// -object iothread: a thread with an event loop of its own, for disks that shall not share the main one.
#pragma once

#include <thread>

#include "src/event/event_loop.h"
#include "src/object/object.h"

namespace vmm::block {

class IoThread final : public Object {
 public:
  static const TypeInfo type;
  ~IoThread() override;
  Result<> complete() override;  // starts it
  Result<> may_remove() const override;
  EventLoop& loop() { return loop_; }
  int thread_id() const { return thread_id_.load(); }
  // Who runs on it; it stays as long as anyone does.
  void add_user(std::string path) { users_.push_back(std::move(path)); }
  void remove_user(const std::string& path);
  const i64& poll_max_ns() const { return poll_max_ns_; }

 private:
  static const Field properties[];
  EventLoop loop_;
  std::thread thread_;
  std::atomic<int> thread_id_{0};
  std::vector<std::string> users_;
  i64 poll_max_ns_ = 32768, poll_grow_ = 0, poll_shrink_ = 0, aio_max_batch_ = 0, thread_pool_min_ = 0, thread_pool_max_ = 64;
};

}  // namespace vmm::block

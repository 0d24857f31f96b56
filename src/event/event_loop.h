// One event loop a thread: posted functions, descriptors, and timers of time domains. The main loop also drives glib's default main
// context, so that libslirp, GIO and others just work, and holds the machine lock except while it polls.
#pragma once

#include <sys/epoll.h>

#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "src/base/fd.h"
#include "src/base/lock.h"
#include "src/base/result.h"
#include "src/event/clock.h"

namespace vmm {

class CAPABILITY("event loop") EventLoop {
 public:
  // The main loop drives glib and takes the machine lock around everything it runs.
  enum class Kind { main, plain };
  explicit EventLoop(Kind kind = Kind::plain);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;

  void post(std::function<void()> work);  // any thread; runs once, in order
  void run();                             // on this thread, until quit()
  void quit();                            // any thread
  bool run_once(bool may_wait);           // one turn; false when nothing was done
  bool on_this_thread() const;
  void assert_here() const ASSERT_CAPABILITY(this) { ASSERT(on_this_thread()); }
  void add_time_domain(TimeDomain& domain);
  void remove_time_domain(TimeDomain& domain);
  // Called at the end of each turn, as all else on this thread; before the loop runs.
  void on_turn(std::function<void()> hook);

 private:
  friend class FdWatch;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Watches one descriptor on one loop; the destructor ends the watch. All on the loop's thread (or before it runs). Stop before
// closing the descriptor. Regular files are always ready.
class FdWatch {
 public:
  FdWatch() = default;
  ~FdWatch() { stop(); }
  FdWatch(const FdWatch&) = delete;
  // `ready` is called with the EPOLL* bits that hold (level-triggered). It may stop or restart this watch.
  void start(EventLoop& loop, int fd, u32 events, std::function<void(u32)> ready);
  void set_events(u32 events);
  void stop();
  bool active() const { return loop_; }

 private:
  friend class EventLoop;
  EventLoop* loop_ = nullptr;
  int fd_ = -1;
  u32 events_ = 0;
  u64 key_ = 0;
};

}  // namespace vmm

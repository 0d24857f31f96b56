// The event loop: epoll(7), eventfd(2), glib's main context (GMainContext documentation: prepare, query, check, dispatch).
#include "src/event/event_loop.h"

#include "src/event/loop_local.h"

#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <deque>

namespace vmm {

namespace {
// Of the loop that runs on this thread, or that was made here first.
struct Locals {
  EventLoop* loop = nullptr;
  std::deque<std::function<bool()>> wait_hooks;
  std::map<const void*, std::shared_ptr<void>> slots;
};
thread_local Locals* locals_of_thread = nullptr;
struct Watch {
  FdWatch* watch = nullptr;
  Fd copy;                    // where the loop watches the descriptor already
  bool always_ready = false;  // regular files, which epoll refuses
  std::shared_ptr<std::function<void(u32)>> ready;
};
timespec to_timespec(Nanoseconds span) {
  const i64 ns = std::min<i64>(span.count(), 3600 * 1'000'000'000ll);
  return {.tv_sec = time_t(ns / 1'000'000'000), .tv_nsec = long(ns % 1'000'000'000)};
}
}  // namespace

struct EventLoop::Impl {
  Kind kind;
  Fd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  Fd wakeup{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::atomic<std::thread::id> thread{std::this_thread::get_id()};
  std::atomic<bool> quitting{false};
  std::atomic<bool> woken{false};  // an eventfd write is under way or unread

  Mutex mutex;
  std::deque<std::function<void()>> posts GUARDED_BY(mutex);
  std::vector<TimeDomain*> domains GUARDED_BY(mutex);
  std::map<u64, Watch> watches GUARDED_BY(mutex);
  u64 last_key GUARDED_BY(mutex) = 0;
  unsigned always_ready GUARDED_BY(mutex) = 0;
  std::vector<std::function<void()>> turn_hooks;
  std::deque<std::function<void()>> batch;  // this thread's: posts being run
  Locals locals{};

  void wake() {
    if (woken.exchange(true, std::memory_order_acq_rel)) return;
    const u64 one = 1;
    [[maybe_unused]] auto n = ::write(wakeup.get(), &one, sizeof one);
  }

  Nanoseconds timeout(bool may_wait) {
    bool again = false;
    for (usize i = 0; i < locals.wait_hooks.size(); i++) again |= locals.wait_hooks[i]();
    if (!may_wait || again || !batch.empty() || quitting.load()) return 0ns;
    Nanoseconds least = Nanoseconds::max();
    Lock lock{mutex};
    if (!posts.empty() || always_ready) return 0ns;
    for (const TimeDomain* domain : domains) least = std::min(least, domain->until_next());
    return least;
  }

  bool run_posts() {
    // A turn within a turn (work that waits for other work) goes on with the outer turn's batch, so that what it waits for is run.
    if (batch.empty()) {
      Lock lock{mutex};
      batch.swap(posts);
    }
    bool any = false;
    for (usize left = batch.size(); left && !batch.empty(); left--) {
      auto work = std::move(batch.front());
      batch.pop_front();
      work();  // what it captured goes with it
      any = true;
    }
    return any;
  }
  bool run_timers() NO_THREAD_SAFETY_ANALYSIS {
    std::vector<TimeDomain*> all;
    {
      Lock lock{mutex};
      all = domains;
    }
    bool any = false;
    for (TimeDomain* domain : all) {
      {
        Lock lock{mutex};
        if (std::ranges::find(domains, domain) == domains.end()) continue;
      }
      if (domain->until_next() > 0ns) continue;
      domain->run_due();
      any = true;
    }
    return any;
  }
  bool deliver(u64 key, u32 events) {
    std::shared_ptr<std::function<void(u32)>> ready;
    {
      Lock lock{mutex};
      auto at = watches.find(key);
      if (at == watches.end()) return false;  // stopped by an earlier callback of this turn
      ready = at->second.ready;
    }
    (*ready)(events);
    return true;
  }
  bool deliver_always_ready() {
    std::vector<std::pair<u64, u32>> due;
    {
      Lock lock{mutex};
      if (always_ready)
        for (auto& [key, w] : watches)
          if (w.always_ready && w.watch->events_ & (EPOLLIN | EPOLLOUT)) due.emplace_back(key, w.watch->events_ & (EPOLLIN | EPOLLOUT));
    }
    for (auto [key, events] : due) deliver(key, events);
    return !due.empty();
  }
  void count_always_ready() REQUIRES(mutex) {
    always_ready = 0;
    for (auto& [key, w] : watches) always_ready += w.always_ready && w.watch->events_ & (EPOLLIN | EPOLLOUT);
  }

  int wait_plain(epoll_event* events, int room, Nanoseconds span) {
    if (span == Nanoseconds::max()) return ::epoll_wait(epoll.get(), events, room, -1);
    static std::atomic<bool> precise{true};
    if (precise.load(std::memory_order_relaxed)) {
      const timespec t = to_timespec(span);
      const int n = ::epoll_pwait2(epoll.get(), events, room, &t, nullptr);
      if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return n;
      precise.store(false, std::memory_order_relaxed);
    }
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(std::min<Nanoseconds>(span, 1h)).count();
    return ::epoll_wait(epoll.get(), events, room, int(ms));
  }

  bool turn(bool may_wait);
};

bool EventLoop::Impl::turn(bool may_wait) NO_THREAD_SAFETY_ANALYSIS {
  const bool is_main = kind == Kind::main;
  const bool held = is_main && machine_lock.held_by_this_thread();
  std::array<epoll_event, 64> events;
  if (is_main && !held) machine_lock.lock();
  Nanoseconds span = timeout(may_wait);
  int count = 0;
  bool any = false;
  GMainContext* glib = nullptr;
  std::vector<GPollFD> glib_fds;
  gint priority = 0;
  if (is_main) {
    glib = g_main_context_default();
    if (!g_main_context_acquire(glib)) glib = nullptr;
    if (glib) {
      g_main_context_prepare(glib, &priority);
      gint glib_ms = -1;
      glib_fds.resize(8);
      gint n;
      while ((n = g_main_context_query(glib, priority, &glib_ms, glib_fds.data(), gint(glib_fds.size()))) > gint(glib_fds.size()))
        glib_fds.resize(usize(n));
      glib_fds.resize(usize(n));
      if (glib_ms >= 0) span = std::min<Nanoseconds>(span, std::chrono::milliseconds{glib_ms});
    }
    std::vector<pollfd> fds{{.fd = epoll.get(), .events = POLLIN, .revents = 0}};
    for (auto& g : glib_fds) fds.push_back({.fd = g.fd, .events = short(g.events), .revents = 0});  // G_IO_* are poll's bits
    machine_lock.unlock();
    const timespec t = to_timespec(span);
    const int ready = ::ppoll(fds.data(), fds.size(), span == Nanoseconds::max() ? nullptr : &t, nullptr);
    machine_lock.lock();
    if (ready > 0) {
      for (usize i = 0; i < glib_fds.size(); i++) glib_fds[i].revents = gushort(fds[i + 1].revents);
      if (fds[0].revents) count = ::epoll_wait(epoll.get(), events.data(), int(events.size()), 0);
    }
    if (glib) {
      if (g_main_context_check(glib, priority, glib_fds.data(), gint(glib_fds.size()))) {
        g_main_context_dispatch(glib);
        any = true;
      }
      g_main_context_release(glib);
    }
  } else {
    count = wait_plain(events.data(), int(events.size()), span);
  }
  for (int i = 0; i < count; i++) {
    u64 drained;
    if (events[usize(i)].data.u64 == 0) [[maybe_unused]]
      auto n = ::read(wakeup.get(), &drained, sizeof drained);
  }
  woken.store(false, std::memory_order_seq_cst);  // after the read, before we look for work: no wake is lost
  for (int i = 0; i < count; i++)
    if (const u64 key = events[usize(i)].data.u64) any |= deliver(key, events[usize(i)].events);
  any |= deliver_always_ready();
  any |= run_timers();
  any |= run_posts();
  for (auto& hook : turn_hooks) hook();
  if (is_main && !held) machine_lock.unlock();
  return any;
}

EventLoop::EventLoop(Kind kind) : impl_(new Impl{.kind = kind}) {
  ASSERT(impl_->epoll && impl_->wakeup);
  epoll_event event{.events = EPOLLIN, .data = {.u64 = 0}};
  ::epoll_ctl(impl_->epoll.get(), EPOLL_CTL_ADD, impl_->wakeup.get(), &event);
  impl_->locals.loop = this;
  if (!locals_of_thread) locals_of_thread = &impl_->locals;
}
EventLoop::~EventLoop() {
  impl_->locals.wait_hooks.clear();
  impl_->locals.slots.clear();
  if (locals_of_thread == &impl_->locals) locals_of_thread = nullptr;
  std::vector<TimeDomain*> domains;
  {
    Lock lock{impl_->mutex};
    domains = impl_->domains;
    for (auto& [key, w] : impl_->watches) w.watch->loop_ = nullptr;
  }
  for (TimeDomain* domain : domains) remove_time_domain(*domain);
}

void EventLoop::post(std::function<void()> work) {
  {
    Lock lock{impl_->mutex};
    impl_->posts.push_back(std::move(work));
  }
  impl_->wake();
}
void EventLoop::run() {
  impl_->thread.store(std::this_thread::get_id());
  locals_of_thread = &impl_->locals;
  while (!impl_->quitting.load()) impl_->turn(true);
  impl_->quitting.store(false);
}
void EventLoop::quit() {
  impl_->quitting.store(true);
  impl_->wake();
}
bool EventLoop::run_once(bool may_wait) {
  impl_->thread.store(std::this_thread::get_id());
  locals_of_thread = &impl_->locals;
  return impl_->turn(may_wait);
}
bool EventLoop::on_this_thread() const { return impl_->thread.load() == std::this_thread::get_id(); }
void EventLoop::on_turn(std::function<void()> hook) { impl_->turn_hooks.push_back(std::move(hook)); }

void EventLoop::add_time_domain(TimeDomain& domain) {
  {
    Lock lock{impl_->mutex};
    impl_->domains.push_back(&domain);
  }
  domain.on_earlier([impl = impl_.get()] { impl->wake(); });
  impl_->wake();
}
void EventLoop::remove_time_domain(TimeDomain& domain) {
  domain.on_earlier(nullptr);
  Lock lock{impl_->mutex};
  std::erase(impl_->domains, &domain);
}

EventLoop* current_loop() { return locals_of_thread ? locals_of_thread->loop : nullptr; }
void before_wait(std::function<bool()> hook) {
  ASSERT(locals_of_thread);
  locals_of_thread->wait_hooks.push_back(std::move(hook));
}
std::shared_ptr<void>& loop_local_slot(const void* key) {
  ASSERT(locals_of_thread);
  return locals_of_thread->slots[key];
}

void FdWatch::start(EventLoop& loop, int fd, u32 events, std::function<void(u32)> ready) {
  stop();
  EventLoop::Impl& impl = *loop.impl_;
  Lock lock{impl.mutex};
  loop_ = &loop, fd_ = fd, events_ = events, key_ = ++impl.last_key;
  Watch watch{.watch = this, .ready = std::make_shared<std::function<void(u32)>>(std::move(ready))};
  epoll_event event{.events = events, .data = {.u64 = key_}};
  if (::epoll_ctl(impl.epoll.get(), EPOLL_CTL_ADD, fd, &event)) {
    if (errno == EEXIST) {  // another watch has it: one of our own
      watch.copy.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
      if (watch.copy && !::epoll_ctl(impl.epoll.get(), EPOLL_CTL_ADD, watch.copy.get(), &event)) fd_ = watch.copy.get();
    } else if (errno == EPERM) {  // a regular file never blocks
      watch.always_ready = true;
    }
  }
  impl.watches.emplace(key_, std::move(watch));
  impl.count_always_ready();
  if (impl.always_ready) impl.wake();
}
void FdWatch::set_events(u32 events) {
  if (!loop_ || events == events_) return;
  EventLoop::Impl& impl = *loop_->impl_;
  Lock lock{impl.mutex};
  events_ = events;
  epoll_event event{.events = events, .data = {.u64 = key_}};
  if (!impl.watches[key_].always_ready) ::epoll_ctl(impl.epoll.get(), EPOLL_CTL_MOD, fd_, &event);
  impl.count_always_ready();
  if (impl.always_ready) impl.wake();
}
void FdWatch::stop() {
  if (!loop_) return;
  EventLoop::Impl& impl = *std::exchange(loop_, nullptr)->impl_;
  Lock lock{impl.mutex};
  auto at = impl.watches.find(key_);
  if (at == impl.watches.end()) return;
  if (!at->second.always_ready) ::epoll_ctl(impl.epoll.get(), EPOLL_CTL_DEL, fd_, nullptr);
  impl.watches.erase(at);
  impl.count_always_ready();
}

}  // namespace vmm

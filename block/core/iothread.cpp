#include "block/core/iothread.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <semaphore>

#include "src/base/host.h"
#include "src/control/command.h"

namespace vmm {
namespace block {
namespace {
struct IoThreadInfo {
  std::string id;
  i64 thread_id = 0, poll_max_ns = 0, poll_grow = 0, poll_shrink = 0, aio_max_batch = 0;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::IoThreadInfo> = {
    field<&block::IoThreadInfo::id>("id", "Its id."),
    field<&block::IoThreadInfo::thread_id>("thread-id", "The host's number of the thread."),
    field<&block::IoThreadInfo::poll_max_ns>("poll-max-ns", "Longest busy wait; not used."),
    field<&block::IoThreadInfo::poll_grow>("poll-grow", "Not used."),
    field<&block::IoThreadInfo::poll_shrink>("poll-shrink", "Not used."),
    field<&block::IoThreadInfo::aio_max_batch>("aio-max-batch", "Not used."),
};

namespace block {

IoThread::~IoThread() {
  if (!thread_.joinable()) return;
  loop_.quit();
  thread_.join();
}

Result<> IoThread::complete() {
  std::binary_semaphore started{0};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread{[&] {
    host::begin_thread(host::ThreadKind::io);
    pthread_setname_np(pthread_self(), ("IO " + name()).substr(0, 15).c_str());
    thread_id_ = ::gettid();
    started.release();
    loop_.run();
  }};
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  started.acquire();
  return {};
}
Result<> IoThread::may_remove() const {
  if (!users_.empty()) return fail("object '{}' is in use by {}, can not be deleted", name(), users_.front());
  return {};
}
void IoThread::remove_user(const std::string& path) {
  const auto at = std::ranges::find(users_, path);
  if (at != users_.end()) users_.erase(at);
}

constexpr Field IoThread::properties[] = {
    field<&IoThread::poll_max_ns_>("poll-max-ns", "Longest busy wait for requests.", {.min = 0, .live = true}),
    field<&IoThread::poll_grow_>("poll-grow", "How fast that grows.", {.min = 0, .live = true}),
    field<&IoThread::poll_shrink_>("poll-shrink", "How fast it shrinks.", {.min = 0, .live = true}),
    field<&IoThread::aio_max_batch_>("aio-max-batch", "Most requests in one batch; 0: as the engine likes.", {.min = 0, .live = true}),
    field<&IoThread::thread_pool_min_>("thread-pool-min", "Workers kept.", {.min = 0, .live = true}),
    field<&IoThread::thread_pool_max_>("thread-pool-max", "Workers at most.", {.min = 0, .live = true}),
};
constinit const TypeInfo IoThread::type{.name = "iothread",
                                        .doc = "A thread for the requests of disks.",
                                        .parent = &Object::type,
                                        .properties = properties,
                                        .make = make<IoThread>};
static Registered registered_type{IoThread::type};

namespace {
std::vector<IoThread*> all() {
  std::vector<IoThread*> out;
  if (Object* folder = root_object().child("objects"))
    for (const auto& o : folder->children())
      if (auto* t = object_cast<IoThread>(o.get())) out.push_back(t);
  return out;
}
Result<std::vector<IoThreadInfo>> query(control::Context&) {
  std::vector<IoThreadInfo> out;
  for (IoThread* t : all()) out.push_back({.id = t->name(), .thread_id = t->thread_id(), .poll_max_ns = t->poll_max_ns()});
  return out;
}
Result<std::string> info(control::Context&, std::span<const std::string>) {
  std::string out;
  for (IoThread* t : all())
    out += format("{}:\n  thread_id={}\n  poll-max-ns={}\n  poll-grow=0\n  poll-shrink=0\n  aio-max-batch=0\n", t->name(), t->thread_id(),
                  t->poll_max_ns());
  return out;
}
control::Registered registered[] = {
    control::Registered{control::command<query>({.name = "query-iothreads", .doc = "The I/O threads.", .since = "2.0"})},
    control::Registered{control::human<info>({.human = "info iothreads", .human_help = "info iothreads -- show iothreads"})},
};
}  // namespace
}  // namespace block
}  // namespace vmm

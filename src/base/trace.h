// Trace events: named places that tell what happens there, each off until `-trace` or the monitor turns it on. One that is off costs one
// branch that is predicted. What they tell goes to the log. Any thread.
#pragma once

#include <atomic>
#include <vector>

#include "src/base/log.h"

namespace vmm {

// `static TraceEvent started{"nbd_client_started"};` where it is used; names as QEMU's where the thing is the same.
class TraceEvent {
 public:
  explicit TraceEvent(std::string_view name);
  TraceEvent(const TraceEvent&) = delete;
  std::string_view name() const { return name_; }
  bool enabled() const { return on_.load(std::memory_order_relaxed); }
  void enable(bool on) { on_.store(on, std::memory_order_relaxed); }
  TraceEvent* next() const { return next_; }

 private:
  const std::string_view name_;
  std::atomic<bool> on_{false};
  TraceEvent* const next_;
};

template <class... Args>
void trace(const TraceEvent& event, fmt::format_string<Args...> text, Args&&... args) {
  if (event.enabled()) [[unlikely]]
    log_write(fmt::format("{} {}\n", event.name(), fmt::format(text, std::forward<Args>(args)...)));
}

std::vector<TraceEvent*> all_trace_events();  // sorted by name
// Those that a name or a pattern ('*' and '?') means.
std::vector<TraceEvent*> find_trace_events(std::string_view pattern);
// `-trace`: a pattern, with a '-' before it to turn off.
Result<> set_trace_pattern(std::string_view pattern);

}  // namespace vmm

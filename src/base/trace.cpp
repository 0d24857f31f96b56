#include "src/base/trace.h"

#include <fnmatch.h>

#include <algorithm>
#include <string>

namespace vmm {

namespace {
constinit TraceEvent* first_event = nullptr;
}

TraceEvent::TraceEvent(std::string_view name) : name_(name), next_(first_event) { first_event = this; }

std::vector<TraceEvent*> all_trace_events() {
  std::vector<TraceEvent*> out;
  for (TraceEvent* e = first_event; e; e = e->next()) out.push_back(e);
  std::ranges::sort(out, {}, &TraceEvent::name);
  return out;
}
std::vector<TraceEvent*> find_trace_events(std::string_view pattern) {
  const std::string text{pattern};
  auto out = all_trace_events();
  std::erase_if(out, [&](const TraceEvent* e) { return ::fnmatch(text.c_str(), std::string{e->name()}.c_str(), 0) != 0; });
  return out;
}
Result<> set_trace_pattern(std::string_view pattern) {
  const bool on = !pattern.starts_with('-');
  if (!on) pattern.remove_prefix(1);
  const auto found = find_trace_events(pattern);
  if (found.empty()) return fail("trace event '{}' does not exist", pattern.substr(0, 200));
  for (TraceEvent* e : found) e->enable(on);
  return {};
}

}  // namespace vmm

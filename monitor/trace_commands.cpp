// trace-event-get-state, trace-event-set-state; `trace-event`, `info trace-events`. Texts as QEMU 7.2 has them (observed).
#include "src/base/trace.h"
#include "src/control/command.h"

namespace vmm {
namespace monitor {
namespace {
enum class TraceState : u8 { unavailable, disabled, enabled };
struct GetArgs {
  std::string name;
};
struct SetArgs {
  std::string name;
  bool enable = false;
  std::optional<bool> ignore_unavailable;
};
struct EventState {
  std::string name;
  TraceState state = TraceState::disabled;
  bool vcpu = false;
};
}  // namespace
}  // namespace monitor
template <>
inline constexpr std::array enum_names<monitor::TraceState> = {
    EnumNameOf<monitor::TraceState>{monitor::TraceState::unavailable, "unavailable"},
    EnumNameOf<monitor::TraceState>{monitor::TraceState::disabled, "disabled"},
    EnumNameOf<monitor::TraceState>{monitor::TraceState::enabled, "enabled"}};
template <>
inline constexpr std::array fields<monitor::GetArgs> = {field<&monitor::GetArgs::name>("name", "A name, or a pattern with '*' and '?'.")};
template <>
inline constexpr std::array fields<monitor::SetArgs> = {
    field<&monitor::SetArgs::name>("name", "A name, or a pattern with '*' and '?'."),
    field<&monitor::SetArgs::enable>("enable", "On or off."),
    field<&monitor::SetArgs::ignore_unavailable>("ignore-unavailable", "Not needed: every event can be turned on."),
};
template <>
inline constexpr std::array fields<monitor::EventState> = {
    field<&monitor::EventState::name>("name", "Its name."),
    field<&monitor::EventState::state>("state", "enabled or disabled."),
    field<&monitor::EventState::vcpu>("vcpu", "Always false: none is of one vCPU."),
};

namespace monitor {
namespace {

Result<std::vector<TraceEvent*>> find(const std::string& name) {
  auto found = find_trace_events(name);
  if (found.empty() && name.find_first_of("*?") == name.npos) return fail("unknown event \"{}\"", name.substr(0, 200));
  return found;
}
Result<std::vector<EventState>> get_state(control::Context&, const GetArgs& args) {
  std::vector<EventState> out;
  for (const TraceEvent* e : TRY(find(args.name)))
    out.push_back({.name = std::string{e->name()}, .state = e->enabled() ? TraceState::enabled : TraceState::disabled});
  return out;
}
Result<> set_state(control::Context&, const SetArgs& args) {
  for (TraceEvent* e : TRY(find(args.name))) e->enable(args.enable);
  return {};
}
Result<std::string> human_set(control::Context&, std::span<const std::string> words) {
  if (words.size() != 2 || (words[1] != "on" && words[1] != "off")) return fail("trace-event takes a name and on or off");
  for (TraceEvent* e : TRY(find(words[0]))) e->enable(words[1] == "on");
  return std::string{};
}
Result<std::string> human_info(control::Context&, std::span<const std::string> words) {
  std::string out;
  for (const TraceEvent* e : TRY(find(words.empty() ? "*" : words[0]))) out += format("{} : state {}\n", e->name(), e->enabled() ? 1 : 0);
  return out;
}

control::Registered registered[] = {
    control::Registered{
        control::command<get_state>({.name = "trace-event-get-state", .doc = "Which trace events are on.", .since = "2.2"})},
    control::Registered{
        control::command<set_state>({.name = "trace-event-set-state", .doc = "Turns trace events on or off.", .since = "2.2"})},
    control::Registered{control::human<human_set>(
        {.human = "trace-event", .human_help = "trace-event name on|off -- changes status of a specific trace event"})},
    control::Registered{control::human<human_info>(
        {.human = "info trace-events", .human_help = "info trace-events [name] -- show available trace-events & their state"})},
};

}  // namespace
}  // namespace monitor
}  // namespace vmm

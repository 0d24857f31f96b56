// Commands and events: declared once; the QMP form, argument checks, schema, HMP and reference page derive. No sockets, no JSON text.
#pragma once

#include <functional>
#include <span>

#include "src/event/task.h"
#include "src/object/object.h"
#include "src/value/field.h"

namespace vmm::control {

// Who asks. `root` is the object tree; `fd` takes a descriptor that came with the command (SCM_RIGHTS).
class Context {
 public:
  virtual ~Context() = default;
  Object& root() const { return root_object(); }
  virtual Result<int> take_fd() { return fail("No file descriptor supplied via SCM_RIGHTS"); }
  // HMP state: the CPU that `info registers`, x … look at.
  virtual unsigned cpu_index() const { return 0; }
  virtual void set_cpu_index(unsigned) {}
};

struct NoArgs {};

struct CommandInfo {
  std::string_view name;  // QMP name; empty: HMP only
  std::string_view doc;
  std::string_view since = "1.0";
  std::string_view human{};       // HMP name ("info status", "system_reset"); empty: none
  std::string_view human_args{};  // HMP argument pattern: "name:type,…" with types s (word), S (rest), i (integer), l (expression), o
                                  // (on|off), -f (flag), -fs (flag with a word); ? suffix optional
  std::string_view human_help{};  // one line of `help`
  std::string (*human_print)(const Value& answer) = nullptr;  // null: print nothing
  bool allow_oob = false;
  bool allow_preconfig = false;
  std::span<const std::string_view> features{};
};

struct Command {
  CommandInfo info;
  std::span<const Field> arguments{};
  const TypeDescription* answer = nullptr;  // null: {}
  // Exactly one is set. The Value is the `arguments` object, already checked against `arguments` by the caller of neither: run() checks.
  Result<Value> (*run)(Context&, const Value& arguments) = nullptr;
  Task<Value> (*run_slow)(Context&, Value arguments) = nullptr;
  // HMP-only commands get words and return text.
  Result<std::string> (*run_human)(Context&, std::span<const std::string> words) = nullptr;
  const Command* next = nullptr;
};

// The head of this list is one of the permitted globals.
struct Registered {
  explicit Registered(Command command);
  Command command;
};
const Command* find_command(std::string_view qmp_name);
std::vector<const Command*> all_commands();  // sorted by name; HMP-only ones included

namespace detail {
template <class F>
struct Signature;
template <class R, class A>
struct Signature<Result<R> (*)(Context&, const A&)> {
  using Answer = R;
  using Args = A;
};
template <class R>
struct Signature<Result<R> (*)(Context&)> {
  using Answer = R;
  using Args = NoArgs;
};
template <class A>
inline constexpr bool has_args = has_fields<A>;
}  // namespace detail

// command<&f>({.name = "qom-get", …}) for `Result<R> f(Context&, const Args&)` or `Result<R> f(Context&)`; R may be void.
template <auto F>
constexpr Command command(CommandInfo info) {
  using S = detail::Signature<decltype(+F)>;
  using Args = typename S::Args;
  using Answer = typename S::Answer;
  Command c{.info = info};
  if constexpr (!std::is_same_v<Args, NoArgs>) c.arguments = fields<Args>;
  if constexpr (!std::is_void_v<Answer>) c.answer = &Codec<Answer>::description;
  c.run = [](Context& context, const Value& arguments) -> Result<Value> {
    auto call = [&]() -> Result<Answer> {
      if constexpr (std::is_same_v<Args, NoArgs>) {
        TRY(assign_fields(nullptr, {}, arguments));
        return F(context);
      } else {
        Args args{};
        TRY(assign_fields(&args, fields<Args>, arguments));
        return F(context, args);
      }
    };
    if constexpr (std::is_void_v<Answer>) {
      TRY(call());
      return Value::object();
    } else {
      return Codec<Answer>::to_value(TRY(call()));
    }
  };
  return c;
}
// HMP-only: human<&f>({.human = "info mtree", .human_help = "…"}) for `Result<std::string> f(Context&, std::span<const std::string>
// words)`.
template <auto F>
constexpr Command human(CommandInfo info) {
  return Command{.info = info, .run_human = F};
}

// Events. `static constexpr EventInfo stop_event{.name = "STOP"}`; emit(stop_event) or emit(info, data). Main loop or machine lock held.
struct EventInfo {
  std::string_view name, doc;
  const TypeDescription* data = nullptr;
  bool rate_limited = false;  // at most one a second, last value kept
};
struct RegisteredEvent {
  explicit RegisteredEvent(const EventInfo& info);
  const EventInfo& info;
  const RegisteredEvent* next;
};
std::vector<const EventInfo*> all_events();
void emit(const EventInfo& event, Value data = {});
// Monitors listen. The callback gets name, data and the host time (ns since 1970) of emission.
class EventListener {
 public:
  EventListener();
  virtual ~EventListener();
  virtual void on_event(const EventInfo& event, const Value& data, i64 host_time_ns) = 0;
};

}  // namespace vmm::control

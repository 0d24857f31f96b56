#include "src/control/command.h"

#include "tests/unit/test.h"

namespace vmm::control {
namespace {
struct AddArgs {
  i64 a = 0;
  std::optional<i64> b;
};
}  // namespace
}  // namespace vmm::control
namespace vmm {
template <>
inline constexpr std::array fields<control::AddArgs> = {field<&control::AddArgs::a>("a", "One."),
                                                        field<&control::AddArgs::b>("b", "Other.")};
}
namespace vmm::control {
namespace {
Result<i64> add(Context&, const AddArgs& args) { return args.a + args.b.value_or(1); }
Registered registered{command<add>({.name = "x-test-add", .doc = "Adds."})};
constexpr EventInfo happened{.name = "X_TEST_HAPPENED", .doc = "For tests."};
RegisteredEvent registered_event{happened};
struct Listener : EventListener {
  std::vector<std::string> seen;
  void on_event(const EventInfo& e, const Value& data, i64) override { seen.push_back(format("{} {}", e.name, to_json(data))); }
};
}  // namespace

TEST(a_command_runs_from_a_value_and_checks_it) {
  Context context;
  const Command* c = find_command("x-test-add");
  CHECK(c);
  CHECK_EQ(to_json(OK(c->run(context, OK(parse_json(R"({"a": 4})"))))), "5");
  CHECK_EQ(c->run(context, OK(parse_json(R"({"b": 4})"))).error().message, "Parameter 'a' is missing");
  CHECK(!find_command("") && !find_command("nope"));
}

TEST(events_reach_listeners) {
  Listener one;
  {
    Listener two;
    emit(happened, 5);
    CHECK_EQ(two.seen.size(), 1u);
  }
  emit(happened);
  CHECK_EQ(one.seen.size(), 2u);
  CHECK_EQ(one.seen[0], "X_TEST_HAPPENED 5");
  const auto events = all_events();
  CHECK(std::ranges::find(events, &happened) != events.end());
}

}  // namespace vmm::control

#include "monitor/monitor.h"

#include "monitor/human.h"
#include "monitor/line_editor.h"
#include "tests/unit/hw/test_machine.h"
#include "tests/unit/test.h"

namespace vmm::monitor {
namespace {

// A terminal or socket in memory.
class FakeChardev final : public Chardev {
 public:
  static const TypeInfo type;
  usize write(std::span<const u8> bytes) override {
    const usize n = std::min(bytes.size(), room);
    out.append(reinterpret_cast<const char*>(bytes.data()), n);
    room -= n;
    return n;
  }
  std::string filename() const override { return "fake"; }
  void update_input() override {}
  void connect() { event(ChardevEvent::opened); }
  void disconnect() { event(ChardevEvent::closed); }
  void type_in(std::string_view text) { front()->receive({reinterpret_cast<const u8*>(text.data()), text.size()}); }
  std::string take() { return std::exchange(out, {}); }
  std::string out;
  usize room = SIZE_MAX;
};
constinit const TypeInfo FakeChardev::type{
    .name = "chardev-fake-monitor", .doc = "For tests.", .parent = &Chardev::type, .make = make<FakeChardev>, .user_creatable = false};

struct Client {
  MachineLockedIfNot lock;
  Ref<FakeChardev> chardev = make_object<FakeChardev>();
  std::unique_ptr<Monitor> monitor;
  explicit Client(Monitor::Mode mode) : Client(Monitor::Options{.mode = mode}) {}
  explicit Client(Monitor::Options options) : monitor(OK(Monitor::make(chardev, options))) { chardev->connect(); }
  ~Client() {
    monitor = nullptr;
    chardev = nullptr;
    reclaim_dropped_objects();
  }
  std::string ask(std::string_view text) {
    chardev->take();
    chardev->type_in(text);
    return chardev->take();
  }
  Value reply(std::string_view text) {
    const std::string answer = ask(text);
    CHECK(answer.ends_with("\r\n"));
    return OK(parse_json(answer));
  }
};
std::string error_class(const Value& v) { return v.find("error")->find("class")->get_string(); }
std::string error_text(const Value& v) { return v.find("error")->find("desc")->get_string(); }

constexpr control::EventInfo test_event{.name = "X_MONITOR_TEST", .doc = "For tests."};
control::RegisteredEvent registered_event{test_event};
constexpr control::EventInfo limited_event{.name = "X_MONITOR_TEST_LIMITED", .doc = "For tests.", .rate_limited = true};
control::RegisteredEvent registered_limited_event{limited_event};

// A command that ends when the test says so, and one that may overtake it.
std::coroutine_handle<> slow_waits;
struct Gate {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) noexcept { slow_waits = handle; }
  void await_resume() const noexcept {}
};
Task<Value> slow(control::Context&, Value) {
  co_await Gate{};
  co_return Value::object();
}
control::Registered registered_slow{control::Command{.info = {.name = "x-monitor-test-slow", .doc = "For tests."}, .run_slow = slow}};
Result<> urgent(control::Context&) { return {}; }
constexpr std::string_view old_features[] = {"deprecated"}, new_features[] = {"unstable"};
control::Registered registered_old{control::command<urgent>({.name = "x-monitor-test-old", .doc = "For tests.", .features = old_features})};
control::Registered registered_new{control::command<urgent>({.name = "x-monitor-test-new", .doc = "For tests.", .features = new_features})};
control::Registered registered_urgent{control::command<urgent>({.name = "x-monitor-test-oob", .doc = "For tests.", .allow_oob = true})};
}  // namespace

TEST(qmp_greets_negotiates_and_gives_ids_back) {
  Client c{Monitor::Mode::control};
  const std::string greeting = c.chardev->take();
  CHECK(greeting.ends_with("\r\n"));
  const Value hello = OK(parse_json(greeting));
  CHECK(hello.find("QMP")->find("version")->find("qemu")->find("major") != nullptr);
  CHECK_EQ(to_json(*hello.find("QMP")->find("capabilities")), "[\"oob\"]");
  const Value early = c.reply(R"({"execute": "query-version", "id": {"a": [1]}})");
  CHECK_EQ(error_class(early), "CommandNotFound");
  CHECK_EQ(to_json(*early.find("id")), R"({"a": [1]})");
  CHECK_EQ(c.ask(R"({"execute": "qmp_capabilities", "id": "libvirt-1"})"), "{\"return\": {}, \"id\": \"libvirt-1\"}\r\n");
  CHECK_EQ(error_class(c.reply(R"({"execute": "qmp_capabilities"})")), "CommandNotFound");
  CHECK_EQ(error_text(c.reply(R"({"execute": "nope"})")), "The command nope has not been found");
  CHECK(c.reply(R"({"execute": "query-version"})").find("return")->find("qemu"));
}

TEST(qmp_refuses_bad_requests_and_goes_on) {
  Client c{Monitor::Mode::control};
  c.ask(R"({"execute": "qmp_capabilities"})");
  CHECK_EQ(error_text(c.reply("[1]")), "QMP input must be a JSON object");
  CHECK_EQ(error_text(c.reply("{}")), "QMP input lacks member 'execute'");
  CHECK_EQ(error_text(c.reply(R"({"execute": 5})")), "QMP input member 'execute' must be a string");
  CHECK_EQ(error_text(c.reply(R"({"execute": "query-version", "x": 1})")), "QMP input member 'x' is unexpected");
  CHECK_EQ(error_text(c.reply(R"({"execute": "query-version", "arguments": []})")), "QMP input member 'arguments' must be an object");
  CHECK_EQ(error_text(c.reply(R"({"execute": "query-version", "arguments": {"x": 1}})")), "Parameter 'x' is unexpected");
  CHECK_EQ(error_text(c.reply(R"({"execute": "qom-get", "arguments": {"path": "/"}})")), "Parameter 'property' is missing");
  CHECK_EQ(error_text(c.reply(R"({"execute": "qom-get", "arguments": {"path": 1, "property": "x"}})")),
           "Invalid parameter type for 'path', expected: string");
  CHECK_EQ(error_class(c.reply(R"({"execute": "qom-list", "arguments": {"path": "/nope"}})")), "DeviceNotFound");
  CHECK_EQ(error_class(c.reply("}")), "GenericError");
  CHECK(error_text(c.reply("{\"execute\": nope}")).contains("JSON parse error"));
  CHECK(c.reply(R"({"execute": "query-version"})").find("return"));
  // Several in one packet, one in several.
  const std::string two = c.ask(R"({"execute":"query-version","id":1}{"execute":"query-version","id":2})");
  CHECK(two.contains("\"id\": 1}\r\n{") && two.ends_with("\"id\": 2}\r\n"));
  CHECK_EQ(c.ask(R"({"execu)"), "");
  CHECK(c.reply(R"(te": "query-version"})").find("return"));
}

TEST(qmp_events_reach_negotiated_clients_only_and_reconnecting_starts_afresh) {
  Client c{Monitor::Mode::control};
  c.chardev->take();
  control::emit(test_event);
  CHECK_EQ(c.chardev->take(), "");
  c.ask(R"({"execute": "qmp_capabilities"})");
  control::emit(test_event);
  const Value bare = OK(parse_json(c.chardev->take()));
  CHECK(bare.find("timestamp")->find("microseconds") && !bare.find("data"));
  control::emit(test_event, Value::object().set("x", 1));
  CHECK_EQ(to_json(*OK(parse_json(c.chardev->take())).find("data")), "{\"x\": 1}");
  c.chardev->disconnect();
  c.chardev->connect();
  CHECK(c.chardev->take().contains("QMP"));
  CHECK_EQ(error_class(c.reply(R"({"execute": "query-version"})")), "CommandNotFound");
}

TEST(qmp_waits_for_a_client_that_does_not_read) {
  Client c{Monitor::Mode::control};
  c.ask(R"({"execute": "qmp_capabilities"})");
  c.chardev->room = 10;
  CHECK_EQ(c.ask(R"({"execute": "query-version"})").size(), 10u);
  c.chardev->room = SIZE_MAX;
  c.chardev->front()->can_send();
  CHECK(c.chardev->take().ends_with("\r\n"));
}

TEST(qmp_events_that_come_too_often_are_limited_to_one_a_second_and_the_last_one_counts) {
  Client c{Monitor::Mode::control};
  const auto machine = test::TestMachine::make();
  vm::set_current_machine(machine.get());
  c.ask(R"({"execute": "qmp_capabilities"})");
  const auto seen = [&] {
    std::string text = c.chardev->take(), numbers;
    while (!text.empty()) {
      const Value event = OK(parse_json(text.substr(0, text.find("\r\n"))));
      text.erase(0, text.find("\r\n") + 2);
      numbers += to_json(*event.find("data")->find("n"));
    }
    return numbers;
  };
  for (int n = 1; n <= 4; n++) control::emit(limited_event, Value::object().set("n", n).set("id", "a"));
  control::emit(limited_event, Value::object().set("n", 9).set("id", "b"));  // another thing's are limited apart
  CHECK_EQ(seen(), "19");
  machine->time_domain().advance(999ms);
  CHECK_EQ(seen(), "");
  machine->time_domain().advance(1ms);
  CHECK_EQ(seen(), "4");
  control::emit(limited_event, Value::object().set("n", 5).set("id", "a"));  // still within a second of the last
  CHECK_EQ(seen(), "");
  machine->time_domain().advance(1s);
  CHECK_EQ(seen(), "5");
  machine->time_domain().advance(2s);
  control::emit(limited_event, Value::object().set("n", 6).set("id", "a"));
  CHECK_EQ(seen(), "6");
  c.monitor = nullptr;  // its timers belong to the machine
  vm::set_current_machine(nullptr);
}

TEST(qmp_out_of_band_commands_overtake_a_slow_one_where_both_sides_agreed) {
  Client c{Monitor::Mode::control};
  c.ask(R"({"execute": "qmp_capabilities"})");
  CHECK(error_text(c.reply(R"({"exec-oob": "x-monitor-test-oob"})")).contains("exec-oob"));  // not negotiated
  Client d{Monitor::Mode::control};
  CHECK_EQ(error_text(d.reply(R"({"execute": "qmp_capabilities", "arguments": {"enable": ["x"]}})")),
           "Parameter 'enable[]' does not accept value 'x'");
  d.ask(R"({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})");
  CHECK_EQ(d.ask(R"({"execute": "x-monitor-test-slow", "id": 1}{"execute": "query-version", "id": 2})"), "");
  CHECK_EQ(d.ask(R"({"exec-oob": "x-monitor-test-oob", "id": 3})"), "{\"return\": {}, \"id\": 3}\r\n");
  CHECK_EQ(error_text(d.reply(R"({"exec-oob": "query-version", "id": 4})")), "The command query-version does not support OOB");
  // No more than a few wait: beyond that the client is not read.
  for (int n = 0; n < 20 && d.chardev->front()->can_receive(); n++) d.ask(R"({"execute": "query-version", "id": 5})");
  CHECK_EQ(d.chardev->front()->can_receive(), 0u);
  d.chardev->take();
  std::exchange(slow_waits, {}).resume();
  const std::string answers = d.chardev->take();
  CHECK(answers.starts_with("{\"return\": {}, \"id\": 1}\r\n") && answers.contains("\"id\": 2}"));
  CHECK(d.chardev->front()->can_receive() > 0);
  // A client that leaves while its command runs gets no answer meant for the one before.
  d.ask(R"({"execute": "x-monitor-test-slow"})");
  d.chardev->disconnect(), d.chardev->connect();
  d.chardev->take();
  std::exchange(slow_waits, {}).resume();
  CHECK_EQ(d.chardev->take(), "");
}

TEST(qmp_refuses_deprecated_and_unstable_commands_where_the_policy_says_so) {
  constexpr std::string_view old_one = R"({"execute": "x-monitor-test-old"})", new_one = R"({"execute": "x-monitor-test-new"})";
  Client any{Monitor::Mode::control};
  any.ask(R"({"execute": "qmp_capabilities"})");
  CHECK(any.reply(old_one).find("return") && any.reply(new_one).find("return"));
  Client strict{Monitor::Options{.mode = Monitor::Mode::control, .deprecated = Monitor::Options::Input::reject}};
  strict.ask(R"({"execute": "qmp_capabilities"})");
  const Value refused = strict.reply(old_one);
  CHECK_EQ(error_class(refused), "CommandNotFound");
  CHECK_EQ(error_text(refused), "Deprecated command x-monitor-test-old disabled by policy");
  CHECK(strict.reply(new_one).find("return"));
}

TEST(the_schema_is_closed_under_its_own_names) {
  Client c{Monitor::Mode::control};
  c.ask(R"({"execute": "qmp_capabilities"})");
  const Value answer = c.reply(R"({"execute": "query-qmp-schema"})");
  std::map<std::string, int> names;
  std::vector<std::string> used;
  for (const Value& entry : answer.find("return")->items()) {
    names[entry.find("name")->get_string()]++;
    for (const char* key : {"arg-type", "ret-type", "element-type"})
      if (const Value* v = entry.find(key)) used.push_back(v->get_string());
    if (const Value* members = entry.find("members"))
      for (const Value& m : members->items())
        if (const Value* type = m.find("type")) used.push_back(type->get_string());
  }
  for (const auto& [name, count] : names) CHECK_EQ(count, 1);
  for (const auto& name : used)
    if (!names.contains(name)) test::failed("a type of the schema exists", __FILE__, __LINE__, name);
}

TEST(qmp_survives_damaged_messages) {
  Client c{Monitor::Mode::control};
  c.ask(R"({"execute": "qmp_capabilities"})");
  const std::string_view base = R"({"execute": "qom-get", "arguments": {"path": "/objects", "property": "type"}, "id": 7})";
  u64 seed = 7;
  const auto random = [&] { return seed = seed * 6364136223846793005 + 1442695040888963407, static_cast<u32>(seed >> 33); };
  for (int i = 0; i < 3000; i++) {
    std::string text{base};
    for (u32 n = 1 + random() % 4; n; n--) text[random() % text.size()] = "{}[]\",:\\1e\n\xff x"[random() % 14];
    c.ask(text + "\n\xff");
  }
  CHECK(c.reply(R"({"execute": "query-version"})").find("return"));
}

TEST(hmp_prompts_echoes_and_answers) {
  Client c{Monitor::Mode::human};
  const std::string hello = c.chardev->take();
  CHECK(hello.contains("monitor - type 'help'") && hello.ends_with("\r\n(qemu) "));
  const std::string answer = c.ask("foo\n");
  CHECK_EQ(answer, "f\033[K\033[Dfo\033[K\033[D\033[Dfoo\033[K\r\nunknown command: 'foo'\r\n(qemu) ");
  CHECK(c.ask("info version\r").contains("8.2.0 (vmm"));
  CHECK(c.ask("info nope\r").contains("unknown command: 'info nope'\r\n"));
  CHECK(c.ask("help\r").contains("quit|q -- quit the emulator\r\n"));
  CHECK(c.ask("qom-get /objects type\r").contains("\"container\"\r\n"));
  CHECK(c.ask("qom-get /nope type\r").contains("Error: Device '/nope' not found\r\n"));
  CHECK(c.ask("qom-get /objects\r").contains("Error: property: an argument is missing\r\n"));
  CHECK(c.ask("print (1+2)*3\r").contains("0x9\r\n"));
}

TEST(human_monitor_command_returns_the_text_alone) {
  Client c{Monitor::Mode::control};
  c.ask(R"({"execute": "qmp_capabilities"})");
  CHECK_EQ(c.ask(R"({"execute": "human-monitor-command", "arguments": {"command-line": "print 5"}})"), "{\"return\": \"0x5\\r\\n\"}\r\n");
  CHECK_EQ(c.ask(R"({"execute": "human-monitor-command", "arguments": {"command-line": "log none"}})"), "{\"return\": \"\"}\r\n");
}

TEST(lines_are_edited_and_remembered) {
  std::string out;
  LineEditor e{"> ", [&](std::string_view s) { out += s; }};
  const auto enter = [&](std::string_view keys) {
    e.show_prompt();
    for (char k : keys) e.key(static_cast<u8>(k));
    e.key('\r');
    return e.take_line();
  };
  CHECK_EQ(enter("abc"), "abc");
  CHECK_EQ(enter("abd\177c"), "abc");
  CHECK_EQ(enter("bc\001a"), "abc");
  CHECK_EQ(enter("ac\033[Db"), "abc");
  CHECK_EQ(enter("one two\027x"), "one x");
  CHECK_EQ(enter("\033[A"), "one x");
  CHECK_EQ(enter("\020\020"), "abc");
  CHECK_EQ(enter("x\025yz\002\013"), "y");
  CHECK_EQ(enter(std::string(10'000, 'a')).size(), 4095u);
}

TEST(expressions_are_those_of_c) {
  control::Context context;
  const auto value = [&](std::string_view text) {
    const auto v = evaluate(context, text);
    return v ? format("{}", *v) : "error: " + v.error().message;
  };
  CHECK_EQ(value("1+2*3"), "7");
  CHECK_EQ(value("(1+2)*3 - 0x10/4"), "5");
  CHECK_EQ(value("1|2&3^1"), "3");
  CHECK_EQ(value("-1"), "18446744073709551615");
  CHECK_EQ(value("~0 & 0xff"), "255");
  CHECK_EQ(value("'A'"), "65");
  CHECK_EQ(value("1 << 4"), "16");
  CHECK_EQ(value("1/0"), "error: division by zero");
  CHECK_EQ(value("(1"), "error: ')' expected");
  CHECK_EQ(value(""), "error: unexpected end of expression");
  CHECK_EQ(value("1 1"), "error: unexpected '1' in the expression");
  CHECK(value("$rip").starts_with("error: "));
  CHECK(value("0x11111111111111111").starts_with("error: number too large"));
  CHECK(value(std::string(10'000, '(')).starts_with("error: the expression is nested too deeply"));
  CHECK(value(std::string(10'000, '-')).starts_with("error: the expression is nested too deeply"));
}

}  // namespace vmm::monitor

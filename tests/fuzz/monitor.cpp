// Both monitors' input: bytes to a QMP client's connection, or lines to the human monitor, on a machine without CPUs. Every reply is a line
// of JSON with its class and words; every line of the human monitor ends. Commands that reach for files, sockets or the end of the process
// are left out: what they do with names is not the monitor's.
#include "monitor/monitor.h"
#include "src/base/assert.h"
#include "tests/unit/hw/test_machine.h"

using namespace vmm;

namespace {

class Wire final : public Chardev {
 public:
  static const TypeInfo type;
  usize write(std::span<const u8> bytes) override {
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return bytes.size();
  }
  std::string filename() const override { return "fuzz"; }
  void update_input() override {}
  void connect() { event(ChardevEvent::opened); }
  std::string out;
};
constinit const TypeInfo Wire::type{
    .name = "chardev-fuzz-monitor", .doc = "For fuzzing.", .parent = &Chardev::type, .make = make<Wire>, .user_creatable = false};

constexpr std::string_view forbidden[] = {"/",       "save",       "dump", "chardev", "block",      "drive",  "netdev", "object_",
                                          "object-", "device_add", "log",  "-fd",     "fd",         "host",   "quit",   "change",
                                          "eject",   "commit",     "gdb",  "vnc",     "client",     "export", "nbd",    "job",
                                          "migrate", "xp",         "snap", "trace",   "transaction"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  if (size < 2 || size > 4096) return 0;
  const std::string_view text{reinterpret_cast<const char*>(data + 1), size - 1};
  for (std::string_view word : forbidden)
    if (text.contains(word)) return 0;
  MachineLockedIfNot lock;
  static EventLoop loop;
  static Ref<test::TestMachine> machine = [] {
    auto made = test::TestMachine::make();
    made->attach_loop(loop);
    root_object().add_child("machine", made);
    vm::set_current_machine(made.get());
    return made;
  }();
  if (data[0] & 1) {
    control::Context context;
    for (usize at = 0; at < text.size();) {
      const usize end = std::min(text.find('\n', at), text.size());
      (void)monitor::run_human_line(context, text.substr(at, end - at));
      at = end + 1;
    }
    return 0;
  }
  Ref<Wire> wire = make_object<Wire>();
  auto monitor = monitor::Monitor::make(wire, {.mode = monitor::Monitor::Mode::control, .pretty = false});
  ASSERT(monitor.has_value());
  wire->connect();
  CharFrontEnd& front = *wire->front();
  const auto send = [&](std::string_view bytes) { front.receive({reinterpret_cast<const u8*>(bytes.data()), bytes.size()}); };
  if (data[0] & 2)
    send(data[0] & 4 ? R"({"execute":"qmp_capabilities","arguments":{"enable":["oob"]}})" : R"({"execute":"qmp_capabilities"})");
  // In pieces: values may be cut anywhere.
  const usize piece = 1 + data[0] / 8;
  for (usize at = 0; at < text.size(); at += piece) send(text.substr(at, piece));
  for (std::string_view rest = wire->out; !rest.empty();) {
    const usize end = rest.find("\r\n");
    ASSERT(end != rest.npos);
    const auto line = parse_json(rest.substr(0, end));
    ASSERT(line.has_value() && line->is_object());
    if (const Value* error = line->find("error")) ASSERT(error->find("class") && !error->find("desc")->get_string().empty());
    rest.remove_prefix(end + 2);
  }
  return 0;
}

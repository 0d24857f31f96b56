#include "src/gdbstub/server.h"

#include "src/chardev/chardev.h"
#include "src/control/command.h"
#include "src/gdbstub/session.h"

namespace vmm::gdb {

namespace {

std::function<std::string(std::string_view)>& command_runner() {
  static std::function<std::string(std::string_view)> run;
  return run;
}

class Server final : public CharFrontEnd {
 public:
  Server(vm::Machine& machine, Ref<Chardev> chardev)
      : machine_(machine),
        chardev_(std::move(chardev)),
        session_(machine, {.reply = [this](std::string_view data) { reply(data); }, .run_command = command_runner()}) {
    const std::weak_ptr<Server*> self = self_;
    machine.debug().on_stop([self, loop = &machine.main_loop()](vm::Vcpu& vcpu, const vm::DebugStop& stop) {
      loop->post([self, &vcpu, stop] {
        if (const auto server = self.lock()) (*server)->session_.vcpu_stopped(vcpu, stop);
      });
    });
    machine.run_state().on_change([self](bool running) {
      const auto server = self.lock();
      if (server && !running && (*server)->open_) (*server)->session_.machine_stopped();
    });
  }
  ~Server() override {
    if (open_) {
      reply(format("W{:02x}", machine_.run_state().exit_code() & 0xff));
      session_.end();
    }
    chardev_->detach(*this);
    // Ours alone, made for this.
    if (Object* const folder = chardev_->parent()) folder->remove_child(*chardev_);
  }
  Result<> attach() { return chardev_->attach(*this); }

  usize can_receive() override { return output_.size() > 4 * packet_bytes ? 0 : 4096; }
  void receive(std::span<const u8> bytes) override {
    for (const u8 b : bytes) {
      if (!open_) opened();  // a line that has no connections: whoever speaks is there
      take(reader_.byte(b));
    }
  }
  void char_event(ChardevEvent event) override {
    if (event == ChardevEvent::opened && !open_) opened();
    if (event == ChardevEvent::closed && std::exchange(open_, false)) {
      output_.clear(), last_.clear();
      reader_.reset();
      session_.end();
    }
  }
  void can_send() override {
    flush();
    if (can_receive()) chardev_->accept_input();
  }
  bool takes_focus() const override { return false; }

 private:
  void opened() {
    open_ = true;
    reader_.reset();
    session_.begin();
  }
  void take(PacketReader::Event event) {
    using Event = PacketReader::Event;
    switch (event) {
      case Event::none:
      case Event::ack: return;
      case Event::nak:
        if (session_.acknowledges()) put(last_);
        return;
      case Event::interrupt: return session_.interrupt();
      case Event::bad_checksum:
      case Event::too_long:
        if (session_.acknowledges()) put(event == Event::bad_checksum ? "-" : "+");
        if (event == Event::too_long) reply("E22");
        return;
      case Event::packet:
        if (session_.acknowledges()) put("+");
        return session_.packet(std::string{reader_.data()});
    }
  }
  void reply(std::string_view data) {
    last_ = frame(data);
    put(last_);
  }
  void put(std::string_view bytes) {
    output_ += bytes;
    flush();
  }
  void flush() {
    while (!output_.empty()) {
      const usize n = chardev_->write({reinterpret_cast<const u8*>(output_.data()), output_.size()});
      if (n == 0 || output_.empty()) return;
      output_.erase(0, n);
    }
  }

  vm::Machine& machine_;
  Ref<Chardev> chardev_;
  Session session_;
  PacketReader reader_;
  std::string output_, last_;
  bool open_ = false;
  std::shared_ptr<Server*> self_ = std::make_shared<Server*>(this);
};

std::unique_ptr<Server>& the_server() {
  static std::unique_ptr<Server> server;
  return server;
}

}  // namespace

Result<> listen(vm::Machine& machine, std::string_view device) {
  if (machine.vcpus().empty()) return fail("gdbstub: meaningless to attach gdb to a machine without any CPU.");
  close();
  if (device == "none") return {};
  static constexpr std::string_view id = "gdb";
  Value options = TRY(chardev_options_from_legacy(device, id));
  // A debugger comes and goes when it likes, and its packets are small.
  if (device.starts_with("tcp:")) options.set("server", true).set("wait", false).set("nodelay", true);
  auto chardev = TRY(make_chardev(machine.main_loop(), options));
  auto server = std::make_unique<Server>(machine, std::move(chardev));
  TRY(server->attach());
  the_server() = std::move(server);
  return {};
}

void close() { the_server().reset(); }

void set_command_runner(std::function<std::string(std::string_view line)> run) { command_runner() = std::move(run); }

static Result<std::string> gdbserver(control::Context&, std::span<const std::string> words) {
  vm::Machine* const machine = vm::current_machine();
  if (!machine) return fail("No machine");
  if (words.size() > 1) return fail("unexpected argument '{}'", words[1]);
  const std::string device = words.empty() ? "tcp::1234" : words[0];
  if (auto done = listen(*machine, device); !done) {
    Error error = std::move(done).error();
    return std::unexpected(std::move(error).within(format("Could not open gdbserver on device '{}'", device)));
  }
  if (device == "none") return std::string{"Disabled gdbserver\n"};
  return format("Waiting for gdb connection on device '{}'\n", device);
}
static control::Registered registered{control::human<gdbserver>(
    {.human = "gdbserver", .human_help = "gdbserver [device] -- start gdbserver on given device (default 'tcp::1234'), stop with 'none'"})};

}  // namespace vmm::gdb

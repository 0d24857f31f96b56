// Source: contract.md §2.1.
#include "monitor/qmp.h"

#include <algorithm>
#include <cstdlib>

#include "src/base/trace.h"
#include "src/control/version.h"
#include "src/value/near.h"
#include "src/vm/machine.h"

namespace vmm::monitor {

using namespace control;

namespace {
TraceEvent command_taken{"handle_qmp_command"}, message_sent{"monitor_qmp_respond"};
constexpr usize piece_bytes = 4096;
constexpr usize oob_waiting = 8;

std::string_view class_name(ErrorClass kind) {
  switch (kind) {
    case ErrorClass::command_not_found: return "CommandNotFound";
    case ErrorClass::device_not_found: return "DeviceNotFound";
    case ErrorClass::device_not_active: return "DeviceNotActive";
    case ErrorClass::kvm_missing_cap: return "KVMMissingCap";
    case ErrorClass::migration_expected: return "MigrationExpected";
    case ErrorClass::generic:
    case ErrorClass::cancelled: break;
  }
  return "GenericError";
}
std::unexpected<Error> not_found(std::string_view name) {
  std::vector<std::string> names;
  for (const control::Command* c : control::all_commands())
    if (!c->info.name.empty()) names.emplace_back(c->info.name);
  Error error{format("The command {} has not been found", name.substr(0, 200))};
  error.kind = ErrorClass::command_not_found;
  std::string near;
  for (const std::string& n : nearest_names(name.substr(0, 64), names)) near += format("{}'{}'", near.empty() ? "Near names: " : ", ", n);
  return std::unexpected(std::move(error).with_hint(near));
}
}  // namespace

QmpMonitor::QmpMonitor(Ref<Chardev> chardev, Options options)
    : chardev_(std::move(chardev)), output_(*chardev_), options_(options), self_(std::make_shared<QmpMonitor*>(this)) {}

QmpMonitor::~QmpMonitor() {
  *self_ = nullptr;
  chardev_->detach(*this);
}

Result<int> QmpMonitor::take_fd() {
  Fd fd = chardev_->take_fd();
  if (!fd) return fail("No file descriptor supplied via SCM_RIGHTS");
  return fd.release();
}

Result<> QmpMonitor::attach() {
  chardev_->set_echo(true);  // a person who types JSON sees it
  TRY(chardev_->attach(*this));
  if (chardev_->connected() && !open_) open();
  chardev_->accept_input();
  return {};
}

void QmpMonitor::open() {
  close();
  open_ = true;
  Value version = Value::object();
  Value numbers = Value::object();
  numbers.set("micro", version_micro).set("minor", version_minor).set("major", version_major);
  version.set("qemu", std::move(numbers)).set("package", package_text);
  Value greeting = Value::object();
  greeting.set("version", std::move(version)).set("capabilities", Value::list().append("oob"));
  send(Value::object().set("QMP", std::move(greeting)));
  chardev_->accept_input();  // the last client may have left us with no room
}

void QmpMonitor::close() {
  open_ = negotiated_ = oob_ = busy_ = false;
  session_++;
  output_.clear();
  waiting_.clear();
  limited_.clear();
  stream_ = JsonStream{};
}

void QmpMonitor::char_event(ChardevEvent event) {
  if (event == ChardevEvent::opened) open();
  if (event == ChardevEvent::closed) close();
}

usize QmpMonitor::can_receive() {
  if (output_.crowded()) return 0;
  if (oob_) return waiting_.size() < oob_waiting ? piece_bytes : 0;
  return busy_ || !waiting_.empty() ? 0 : piece_bytes;
}

void QmpMonitor::receive(std::span<const u8> bytes) {
  const u64 session = session_;
  stream_.feed({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, [&](Result<Value> message) {
    if (session == session_) take(std::move(message));
  });
}

void QmpMonitor::can_send() {
  output_.flush();
  if (!output_.crowded()) chardev_->accept_input();
}

void QmpMonitor::take(Result<Value> message) {
  if (!message) return reply(nullptr, std::unexpected(std::move(message).error()));
  if (oob_ && message->find("exec-oob")) return execute(*message, true);
  waiting_.push_back(std::move(*message));
  dispatch();
}

// In-band commands run one at a time, in order.
void QmpMonitor::dispatch() {
  while (!busy_ && !waiting_.empty()) {
    const Value request = std::move(waiting_.front());
    waiting_.pop_front();
    execute(request, false);
  }
}

void QmpMonitor::execute(const Value& request, bool oob) {
  if (command_taken.enabled()) trace(command_taken, "mon {} req: {}", static_cast<const void*>(this), to_json(request));
  const Value* id = request.find("id");
  const std::string_view verb = oob ? "exec-oob" : "execute";
  const Value* name = request.find(verb);
  const Value* arguments = request.find("arguments");
  const auto refuse = [&](std::unexpected<Error> error) { reply(id, std::move(error)); };
  if (!request.is_object()) return refuse(fail("QMP input must be a JSON object"));
  for (const auto& [member, value] : request.members())
    if (member != verb && member != "arguments" && member != "id")
      return refuse(fail("QMP input member '{}' is unexpected", member.substr(0, 200)));
  if (!name) return refuse(fail("QMP input lacks member 'execute'"));
  if (!name->is_string()) return refuse(fail("QMP input member '{}' must be a string", verb));
  if (arguments && !arguments->is_object()) return refuse(fail("QMP input member 'arguments' must be an object"));
  const std::string& command_name = name->get_string();
  if (!negotiated_) {
    if (command_name != "qmp_capabilities")
      return refuse(fail(ErrorClass::command_not_found, "Expecting capabilities negotiation with 'qmp_capabilities'"));
    auto done = negotiate(arguments);
    return reply(id, done ? Result<Value>{Value::object()} : std::unexpected(std::move(done).error()));
  }
  const Command* command = command_name == "qmp_capabilities" ? nullptr : find_command(command_name);
  if (!command) return refuse(not_found(command_name));
  if (oob && !command->info.allow_oob) return refuse(fail("The command {} does not support OOB", command_name));
  if (auto allowed = allowed_by_policy(*command); !allowed) return refuse(std::unexpected(std::move(allowed).error()));
  const Value given = arguments ? *arguments : Value::object();
  if (command->run) return reply(id, command->run(*this, given));
  if (!command->run_slow) return refuse(not_found(command_name));
  busy_ = true;
  command->run_slow(*this, given)
      .start([self = self_, session = session_, id = id ? std::optional<Value>{*id} : std::nullopt](Result<Value> result) {
        QmpMonitor* monitor = *self;
        if (!monitor || monitor->session_ != session) return;
        monitor->busy_ = false;
        monitor->reply(id ? &*id : nullptr, std::move(result));
        monitor->dispatch();
        monitor->chardev_->accept_input();
      });
}

Result<> QmpMonitor::allowed_by_policy(const Command& command) const {
  for (const auto& [feature, word, policy] :
       {std::tuple{"deprecated", "Deprecated", options_.deprecated}, {"unstable", "Unstable", options_.unstable}}) {
    if (policy == Options::Input::accept || std::ranges::find(command.info.features, feature) == command.info.features.end()) continue;
    if (policy == Options::Input::crash) {
      report_error(format("{} command {} was used", word, command.info.name));
      std::abort();  // as the user asked for, to find those who still use it
    }
    return fail(ErrorClass::command_not_found, "{} command {} disabled by policy", word, command.info.name);
  }
  return {};
}

Result<> QmpMonitor::negotiate(const Value* arguments) {
  bool oob = false;
  if (arguments) {
    for (const auto& [name, value] : arguments->members()) {
      if (name != "enable") return fail("Parameter '{}' is unexpected", name.substr(0, 200));
      if (!value.is_list()) return fail("Invalid parameter type for 'enable', expected: array");
      for (const Value& capability : value.items()) {
        if (!capability.is_string()) return fail("Invalid parameter type for 'enable[]', expected: string");
        if (capability.get_string() != "oob")
          return fail("Parameter 'enable[]' does not accept value '{}'", capability.get_string().substr(0, 200));
        oob = true;
      }
    }
  }
  negotiated_ = true, oob_ = oob;
  return {};
}

void QmpMonitor::reply(const Value* id, Result<Value> result) {
  Value answer = Value::object();
  if (result) {
    answer.set("return", std::move(*result));
  } else {
    const Error& error = result.error();
    std::string text = error.message;
    if (!error.hint.empty() && error.hint.size() < 300) text += "; " + error.hint;
    std::ranges::replace(text, '\n', ' ');
    answer.set("error", Value::object().set("class", class_name(error.kind)).set("desc", std::move(text)));
  }
  if (id) answer.set("id", *id);
  send(answer);
}

void QmpMonitor::send(const Value& message) {
  if (!open_) return;
  std::string text = to_json(message, options_.pretty);
  trace(message_sent, "mon {} resp: {}", static_cast<const void*>(this), text);
  if (options_.pretty) text = with_crlf(text);
  output_.add(text + "\r\n");  // clients cut at CR LF
}

void QmpMonitor::on_event(const EventInfo& event, const Value& data, i64 host_time_ns) {
  if (!negotiated_ || output_.full()) return;
  vm::Machine* machine = vm::current_machine();
  if (!event.rate_limited || !machine) return send_event(event, data, host_time_ns);
  std::string key{event.name};  // what happens to different things is limited apart
  for (std::string_view member : {"id", "qom-path"})
    if (const Value* v = data.find(member)) key += "\n" + to_json(*v);
  if (limited_.size() > 4096 && !limited_.contains(key)) return;
  Limited& limit = limited_[key];
  limit.event = &event;
  if (limit.timer && limit.timer->armed()) {
    limit.data = data, limit.host_time_ns = host_time_ns, limit.pending = true;
    return;
  }
  send_event(event, data, host_time_ns);
  if (!limit.timer)
    limit.timer = std::make_unique<Timer>(Clock::real, machine->time_domain(), [this, &limit] {
      if (!std::exchange(limit.pending, false)) return;
      send_event(*limit.event, limit.data, limit.host_time_ns);
      limit.timer->arm_in(1s);
    });
  limit.timer->arm_in(1s);
}

void QmpMonitor::send_event(const EventInfo& event, const Value& data, i64 host_time_ns) {
  Value stamp = Value::object();
  stamp.set("seconds", host_time_ns / 1'000'000'000).set("microseconds", host_time_ns % 1'000'000'000 / 1000);
  Value message = Value::object();
  message.set("timestamp", std::move(stamp)).set("event", event.name);
  if (!data.is_null() && !(data.is_object() && data.members().empty())) message.set("data", data);
  send(message);
}

}  // namespace vmm::monitor

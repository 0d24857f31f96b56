// From options to back ends: -chardev, chardev-add, and the word forms of -serial and friends. Source: contract.md §1.1, §7.
#include <algorithm>
#include <cctype>
#include <cstring>

#include "src/chardev/make.h"
#include "src/value/key_list.h"
#include "src/value/near.h"

namespace vmm {

namespace {
const ChardevKind*& kinds() {
  static const ChardevKind* first = nullptr;
  return first;
}
bool is_true(const Value* v) {
  if (!v) return false;
  if (v->is_bool()) return v->get_bool();
  return v->is_string() && (v->get_string() == "on" || v->get_string() == "yes" || v->get_string() == "true" || v->get_string() == "y");
}
struct Common {
  std::optional<std::string> logfile;
  bool logappend = false, mux = false;
};
bool is_id(std::string_view id) {
  return !id.empty() && std::ranges::all_of(id, [](unsigned char c) { return std::isalnum(c) || std::strchr("-._#", c); });
}
}  // namespace

template <>
inline constexpr std::array fields<Common> = {
    field<&Common::logfile>("logfile", "File that output is kept in."),
    field<&Common::logappend>("logappend", "Add to that file.", {.optional = true}),
    field<&Common::mux>("mux", "Share it among several front ends.", {.optional = true}),
};

RegisteredChardev::RegisteredChardev(ChardevKind k) : kind(k) {
  kind.next = kinds();
  kinds() = &kind;
}
const ChardevKind* find_chardev_kind(std::string_view name) {
  // Names of older days.
  if (name == "tty") name = "serial";
  if (name == "parport") name = "parallel";
  for (const ChardevKind* k = kinds(); k; k = k->next)
    if (k->name == name) return k;
  return nullptr;
}
std::vector<std::string> chardev_backend_names() {
  std::vector<std::string> names;
  for (const ChardevKind* k = kinds(); k; k = k->next) names.emplace_back(k->name);
  std::ranges::sort(names);
  return names;
}

namespace {
EventLoop* main_loop = nullptr;
}
EventLoop* chardev_loop() { return main_loop; }

Result<Ref<Chardev>> make_chardev(EventLoop& loop, const Value& given) {
  main_loop = &loop;
  if (!given.is_object()) return fail("chardev: options are missing");
  Value options = given;
  const Value* backend = options.find("backend");
  const Value* id_given = options.find("id");
  if (!id_given || !id_given->is_string()) return fail("chardev: no id specified");
  const std::string id = id_given->get_string();
  if (!is_id(id)) {
    return std::unexpected(Error{"Parameter 'id' expects an identifier"}.with_hint(
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."));
  }
  if (!backend || !backend->is_string()) return fail("chardev: \"{}\" missing backend", id);
  const std::string name = backend->get_string();
  const ChardevKind* kind = find_chardev_kind(name);
  if (!kind) {
    Error error{format("'{}' is not a valid char driver name", name)};
    std::string near;
    for (const auto& n : nearest_names(name, chardev_backend_names())) near += format("{}'{}'", near.empty() ? "Near names: " : ", ", n);
    return std::unexpected(std::move(error).with_hint(near));
  }
  if (find_chardev(id)) return fail("Duplicate ID '{}' for chardev", id);
  options.erase("backend");
  options.erase("id");
  for (const auto& [key, value] : options.members())
    if (!find_field(kind->options, key) && !find_field(fields<Common>, key)) {
      std::vector<std::string> names;
      for (const Field& f : kind->options) names.emplace_back(f.name);
      for (const Field& f : fields<Common>) names.emplace_back(f.name);
      return std::unexpected(Error{format("Invalid parameter '{}'", key)}.with_hint(near_hint(key, names)));
    }
  Value common_given = Value::object();
  for (const Field& f : fields<Common>)
    if (const Value* v = options.find(f.name)) {
      common_given.set(std::string{f.name}, *v);
      options.erase(f.name);
    }
  const Common common = TRY(read_options<Common>(common_given));
  const std::string base_id = common.mux ? id + "-base" : id;
  if (common.mux && find_chardev(base_id)) return fail("Duplicate ID '{}' for chardev", base_id);

  Ref<Chardev> chardev = TRY(kind->make(loop, base_id, options));
  if (common.logfile) TRY(chardev->open_log(*common.logfile, common.logappend));
  Object* folder = root_object().child("chardevs");
  ASSERT(folder);
  folder->add_child(base_id, chardev);
  if (!common.mux) return chardev;
  auto mux = make_mux(chardev);
  if (!mux) {
    folder->remove_child(*chardev);
    return mux;
  }
  folder->add_child(id, *mux);
  return mux;
}

// --- Words

Result<Value> chardev_options_from_legacy(std::string_view text, std::string_view id) {
  if (text == "none") return Value{};
  Value v = Value::object();
  v.set("id", Value{id});
  const bool mon = text.starts_with("mon:");
  if (mon) {
    text.remove_prefix(4);
    v.set("mux", true);
    // Shared with the monitor, Ctrl-C goes to the guest; Ctrl-A x ends.
    if (text == "stdio") v.set("signal", false);
  }
  const auto kind = [&](std::string_view name) { v.set("backend", Value{name}); };
  const auto rest_after = [&](usize n) { return text.substr(n); };
  if (text == "null" || text == "pty" || text == "stdio" || text == "vc" || text == "ringbuf" || text == "testdev" || text == "msmouse" ||
      text == "wctablet" || text == "braille") {
    kind(text);
    return v;
  }
  if (text.starts_with("vc:")) return kind("vc"), v;  // its size: we have no such consoles
  if (text.starts_with("file:")) return kind("file"), v.set("path", Value{rest_after(5)}), v;
  if (text.starts_with("pipe:")) return kind("pipe"), v.set("path", Value{rest_after(5)}), v;
  if (text.starts_with("/dev/parport")) return kind("parallel"), v.set("path", Value{text}), v;
  if (text.starts_with("/dev/")) return kind("serial"), v.set("path", Value{text}), v;
  const bool is_unix = text.starts_with("unix:"), is_tcp = text.starts_with("tcp:"), is_telnet = text.starts_with("telnet:");
  if (is_unix || is_tcp || is_telnet || text.starts_with("websocket:")) {
    kind("socket");
    std::string_view rest = rest_after(text.find(':') + 1);
    const KeyList list = TRY(parse_key_list(rest, "address"));
    std::string address;
    for (const KeyListEntry& e : list.entries) {
      if (e.key == "address")
        address = e.value;
      else if (e.key == "reconnect" || e.key == "reconnect-ms" || e.key == "to" || find_field(find_chardev_kind("socket")->options, e.key))
        v.set(e.key, Value{e.value});
      else
        return fail("'{}' is not a valid char driver", text);
    }
    if (is_unix) {
      if (address.empty()) return fail("chardev: socket: no path given");
      v.set("path", Value{address});
    } else {
      const usize colon = address.rfind(':');
      if (colon == std::string::npos) return fail("'{}' is not a valid char driver", text);
      std::string host = address.substr(0, colon);
      if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
      v.set("host", Value{host});
      v.set("port", Value{address.substr(colon + 1)});
    }
    if (is_telnet) v.set("telnet", true);
    if (text.starts_with("websocket:")) v.set("websocket", true);
    return v;
  }
  if (text.starts_with("udp:")) {
    // udp:[remote_host]:remote_port[@[src_ip]:src_port]
    kind("udp");
    std::string_view rest = rest_after(4), local;
    if (const usize at = rest.find('@'); at != rest.npos) local = rest.substr(at + 1), rest = rest.substr(0, at);
    const usize colon = rest.rfind(':');
    if (colon == rest.npos) return fail("'{}' is not a valid char driver", text);
    if (colon) v.set("host", Value{rest.substr(0, colon)});
    v.set("port", Value{rest.substr(colon + 1)});
    if (const usize c = local.rfind(':'); c != local.npos) {
      if (c) v.set("localaddr", Value{local.substr(0, c)});
      v.set("localport", Value{local.substr(c + 1)});
    }
    return v;
  }
  Error error{format("'{}' is not a valid char driver", text)};
  const std::vector<std::string> names{"null",   "stdio", "pty", "file", "pipe",    "unix", "tcp",
                                       "telnet", "udp",   "vc",  "mon",  "chardev", "none"};
  return std::unexpected(std::move(error).with_hint(near_hint(text.substr(0, text.find(':')), names)));
}

// --- QMP

Result<Value> chardev_options_from_qmp(std::string_view id, const Value& backend) {
  const Value* type = backend.find("type");
  if (!type || !type->is_string()) return fail("Parameter 'backend.type' is missing");
  if (!find_chardev_kind(type->get_string()))
    return std::unexpected(Error{format("Parameter 'backend.type' does not accept value '{}'", type->get_string())}.with_hint(
        near_hint(type->get_string(), chardev_backend_names())));
  Value v = Value::object();
  v.set("id", Value{id});
  v.set("backend", *type);
  const Value* data = backend.find("data");
  if (!data) return v;
  if (!data->is_object()) return fail("Invalid parameter type for 'backend.data', expected: object");
  const auto flatten = [&](const Value& address) -> Result<> {
    const Value* kind = address.find("type");
    const Value* inner = address.find("data");
    const Value& members = inner ? *inner : address;
    if (!members.is_object()) return fail("Invalid parameter type for 'backend.data.addr', expected: object");
    for (const auto& [key, value] : members.members())
      if (key != "type") v.set(key == "str" ? "fd" : key, value);
    if (kind && kind->is_string() && kind->get_string() == "vsock") return fail("vsock addresses are not possible here");
    return {};
  };
  for (const auto& [key, value] : data->members()) {
    if (key == "addr" || key == "remote")
      TRY(flatten(value));
    else if (key == "local" && value.is_object()) {
      const Value* inner = value.find("data");
      if (const Value* host = (inner ? inner : &value)->find("host")) v.set("localaddr", *host);
      if (const Value* port = (inner ? inner : &value)->find("port")) v.set("localport", *port);
    } else if (key == "out")
      v.set("path", value);
    else if (key == "in")
      v.set("input-path", value);
    else if (key == "device")
      v.set("path", value);
    else
      v.set(key, value);
  }
  // QMP's sockets listen unless told otherwise.
  if (type->get_string() == "socket" && !v.find("server")) v.set("server", true);
  if (type->get_string() == "socket" && is_true(v.find("server")) && !v.find("wait")) v.set("wait", false);
  return v;
}

}  // namespace vmm

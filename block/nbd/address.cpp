#include "block/nbd/address.h"

#include <sys/socket.h>

#include <charconv>

#include "block/nbd/stream.h"
#include "block/nbd/wire.h"
#include "src/base/os_error.h"
#include "src/event/loop_local.h"
#include "src/event/worker_pool.h"
#include "src/io/fd_set.h"
#include "src/value/field.h"

namespace vmm {
namespace block::nbd {
namespace {
enum class Kind : u8 { inet, unix_, fd };
struct AddressFields {
  Kind type = Kind::inet;
  std::optional<std::string> host, port, path, str;
  std::optional<bool> ipv4, ipv6, keep_alive, mptcp, abstract, tight, numeric;
  std::optional<u16> to;
};
}  // namespace
}  // namespace block::nbd
template <>
inline constexpr std::array enum_names<block::nbd::Kind> = {EnumNameOf<block::nbd::Kind>{block::nbd::Kind::inet, "inet"},
                                                            EnumNameOf<block::nbd::Kind>{block::nbd::Kind::unix_, "unix"},
                                                            EnumNameOf<block::nbd::Kind>{block::nbd::Kind::fd, "fd"}};
template <>
inline constexpr std::array fields<block::nbd::AddressFields> = {
    field<&block::nbd::AddressFields::type>("type", "inet, unix or fd."),
    field<&block::nbd::AddressFields::host>("host", "Address or name."),
    field<&block::nbd::AddressFields::port>("port", "TCP port."),
    field<&block::nbd::AddressFields::to>("to", "Last port to try."),
    field<&block::nbd::AddressFields::ipv4>("ipv4", "Use IPv4."),
    field<&block::nbd::AddressFields::ipv6>("ipv6", "Use IPv6."),
    field<&block::nbd::AddressFields::keep_alive>("keep-alive", "Probe idle connections."),
    field<&block::nbd::AddressFields::numeric>("numeric", "The host is a number: not looked up."),
    field<&block::nbd::AddressFields::path>("path", "Unix socket."),
    field<&block::nbd::AddressFields::abstract>("abstract", "The path is an abstract name."),
    field<&block::nbd::AddressFields::tight>("tight", "Abstract names are not padded."),
    field<&block::nbd::AddressFields::str>("str", "A descriptor, by number or by the name that getfd gave it."),
};

namespace block::nbd {

Result<Address> read_address(const Value& tree) {
  Value flat = tree;
  if (const Value* data = tree.find("data")) {
    if (!data->is_object()) return fail("Invalid parameter type for 'server.data', expected: object");
    const Value inner = *data;
    flat.erase("data");
    for (const auto& [name, value] : inner.members()) flat.set(name, value);
  }
  // Numbers are ports too.
  if (const Value* port = flat.find("port"); port && port->is_int()) flat.set("port", to_json(*port));
  AddressFields f;
  TRY(assign_fields(&f, fields<AddressFields>, flat, "server"));
  Address a{.ipv4 = f.ipv4, .ipv6 = f.ipv6, .last_port = f.to.value_or(0)};
  switch (f.type) {
    case Kind::inet:
      if (!f.host) return fail("Parameter 'server.host' is missing");
      if (!f.port) return fail("Parameter 'server.port' is missing");
      a.socket.host = *f.host, a.socket.port = *f.port;
      break;
    case Kind::unix_:
      if (!f.path || f.path->empty()) return fail("Parameter 'server.path' is missing");
      a.socket.path = *f.path;
      a.socket.abstract = f.abstract.value_or(false), a.socket.tight = f.tight.value_or(true);
      break;
    case Kind::fd:
      if (!f.str) return fail("Parameter 'server.str' is missing");
      a.fd = *f.str;
      break;
  }
  return a;
}

namespace {
Result<std::string> unescape(std::string_view text) {
  std::string out;
  for (usize i = 0; i < text.size(); i++) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    u8 byte = 0;
    const char* end = text.data() + i + 3;
    if (i + 2 >= text.size() || std::from_chars(text.data() + i + 1, end, byte, 16).ptr != end || !byte)
      return fail("'{}': '%' is followed by two hexadecimal digits", text);
    out += char(byte);
    i += 2;
  }
  return out;
}
Value inet(std::string host, std::string port) {
  Value v = Value::object();
  v.set("type", "inet").set("host", std::move(host)).set("port", std::move(port));
  return v;
}
Value unix_path(std::string path) {
  Value v = Value::object();
  v.set("type", "unix").set("path", std::move(path));
  return v;
}

// HOST, HOST:PORT, [HOST]:PORT
Result<Value> host_and_port(std::string_view text, bool port_needed) {
  std::string_view host = text, port;
  if (text.starts_with('[')) {
    const auto end = text.find(']');
    if (end == text.npos) return fail("'{}' has no ']'", text);
    host = text.substr(1, end - 1);
    const std::string_view rest = text.substr(end + 1);
    if (!rest.empty() && rest[0] != ':') return fail("'{}': a colon and a port are expected after ']'", text);
    if (!rest.empty()) port = rest.substr(1);
  } else if (const auto colon = text.rfind(':'); colon != text.npos) {
    host = text.substr(0, colon), port = text.substr(colon + 1);
  }
  if (port_needed && port.empty()) return fail("'{}': a port is missing", text);
  return inet(host.empty() ? "localhost" : std::string{host}, port.empty() ? std::to_string(default_port) : std::string{port});
}

Result<Value> parse_uri(std::string_view scheme, std::string_view rest) {
  const bool local = scheme == "nbd+unix";
  if (scheme == "nbds" || scheme == "nbds+unix" || scheme == "nbds+tcp")
    return fail("'{}': TLS is not possible on NBD connections; use a unix socket or a tunnel", scheme);
  std::string_view query, path;
  if (const auto mark = rest.find('?'); mark != rest.npos) query = rest.substr(mark + 1), rest = rest.substr(0, mark);
  if (const auto slash = rest.find('/'); slash != rest.npos) path = rest.substr(slash + 1), rest = rest.substr(0, slash);
  if (const auto at = rest.find('@'); at != rest.npos) rest = rest.substr(at + 1);  // a user's name means nothing here
  Value tree = Value::object();
  if (local) {
    if (!rest.empty()) return fail("'nbd+unix://' names no host: nbd+unix:///EXPORT?socket=PATH");
    if (!query.starts_with("socket=") || query.contains('&')) return fail("'nbd+unix://' needs the socket: nbd+unix:///EXPORT?socket=PATH");
    tree.set("server", unix_path(TRY(unescape(query.substr(7)))));
  } else {
    if (!query.empty()) return fail("'{}://' takes no '?{}'", scheme, query);
    tree.set("server", TRY(host_and_port(TRY(unescape(rest)), false)));
  }
  const std::string name = TRY(unescape(path));
  if (!name.empty()) tree.set("export", name);
  return tree;
}
}  // namespace

Result<Value> parse_name(std::string_view name) {
  const auto colon = name.find(':');
  const std::string_view scheme = name.substr(0, colon), rest = name.substr(colon + 1);
  if (rest.starts_with("//")) return parse_uri(scheme, rest.substr(2));
  if (scheme != "nbd") return fail("'{}:' is followed by '//'", scheme);
  Value tree = Value::object();
  std::string_view where = rest, name_of_export;
  constexpr std::string_view mark = ":exportname=";
  if (const auto at = rest.find(mark); at != rest.npos) where = rest.substr(0, at), name_of_export = rest.substr(at + mark.size());
  if (where.starts_with("unix:")) {
    if (where.size() == 5) return fail("'{}': a path is missing", name);
    tree.set("server", unix_path(std::string{where.substr(5)}));
  } else {
    tree.set("server", TRY(host_and_port(where, true)));
  }
  if (!name_of_export.empty()) tree.set("export", name_of_export);
  return tree;
}

std::string name_of(const Address& a, const std::string& export_name) {
  if (a.fd) return export_name.empty() ? "nbd:fd" : format("nbd:fd:exportname={}", export_name);
  if (a.socket.is_unix())
    return export_name.empty() ? format("nbd+unix://?socket={}", a.socket.path)
                               : format("nbd+unix:///{}?socket={}", export_name, a.socket.path);
  const bool six = a.socket.host.contains(':');
  const std::string where = format("nbd://{}{}{}:{}", six ? "[" : "", a.socket.host, six ? "]" : "", a.socket.port);
  return export_name.empty() ? where : format("{}/{}", where, export_name);
}

int family_of(const Address& a) {
  if (!a.ipv4 && !a.ipv6) return AF_UNSPEC;
  const bool four = a.ipv4.value_or(!a.ipv6.value_or(false)), six = a.ipv6.value_or(!a.ipv4.value_or(false));
  return four && !six ? AF_INET : six && !four ? AF_INET6 : AF_UNSPEC;
}

namespace {
// A number that our parent handed down, or a name that QMP's getfd has taken.
Result<Fd> given_socket(const std::string& text) {
  Fd fd;
  if (!text.empty() && text[0] >= '0' && text[0] <= '9') {
    int number = -1;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    if (error != std::errc{} || stop != end || number < 0) return fail("Unable to parse FD number {}", text);
    fd = Fd{number};
  } else {
    fd = TRY(io::take_named_fd(text));
  }
  int kind = 0;
  socklen_t size = sizeof kind;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &kind, &size) || kind != SOCK_STREAM) {
    if (errno == EBADF) (void)fd.release();
    return fail("File descriptor '{}' is not a stream socket", text);
  }
  return fd;
}
}  // namespace

Task<Fd> connect(Address a, Nanoseconds deadline) {
  if (a.fd) co_return given_socket(*a.fd);
  Result<Fd> made = fail("");
  if (a.socket.is_unix()) {
    made = connect_to(a.socket, AF_UNSPEC, false);
  } else {
    // Looking a name up may take its time.
    const auto look = [where = a.socket, family = family_of(a)]() -> Result<int> {
      Fd fd = TRY(connect_to(where, family, false));
      return fd.release();
    };
    const auto number = co_await attempt(worker_pool().run<int>(*current_loop(), look));
    if (number)
      made = Fd{*number};
    else
      made = std::unexpected(number.error());
  }
  if (!made) co_return std::unexpected(std::move(made).error());
  const bool in_time = co_await ready_for(made->get(), EPOLLOUT, deadline);
  const int error = in_time ? connect_result(made->get()) : ETIMEDOUT;
  if (error) co_return fail_os(error, format("Failed to connect to '{}'", name_of(a, "")));
  co_return std::move(made);
}

Result<Fd> listen(Address& a) {
  if (a.fd) return given_socket(*a.fd);
  return listen_on(a.socket, a.last_port, family_of(a));
}

}  // namespace block::nbd
}  // namespace vmm

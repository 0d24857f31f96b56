// query-vnc, query-vnc-servers, change-vnc-password, set_password, expire_password. Source: contract.md §2; QMP's VncInfo.
#include "src/ui/vnc/commands.h"

#include <charconv>
#include <chrono>

#include "src/control/command.h"

namespace vmm {
namespace ui::vnc {
struct ClientShown {
  std::string host, service, family;
  bool websocket = false;
};
struct VncShown {
  bool enabled = false;
  std::optional<std::string> host, family, service, auth;
  std::optional<std::vector<ClientShown>> clients;
};
struct ListenerShown {
  std::string host, service, family;
  bool websocket = false;
  std::string auth;
};
struct ServerShown {
  std::string id;
  std::vector<ListenerShown> server;
  std::vector<ClientShown> clients;
  std::string auth;
};
enum class Protocol { vnc, spice };
enum class Connected { keep, fail, disconnect };
struct SetPasswordArgs {
  Protocol protocol = Protocol::vnc;
  std::string password;
  std::optional<Connected> connected;
  std::optional<std::string> display;
};
struct ExpirePasswordArgs {
  Protocol protocol = Protocol::vnc;
  std::string time;
  std::optional<std::string> display;
};
struct ChangePasswordArgs {
  std::string password;
};
}  // namespace ui::vnc
template <>
inline constexpr std::array enum_names<ui::vnc::Protocol> = {EnumNameOf<ui::vnc::Protocol>{ui::vnc::Protocol::vnc, "vnc"},
                                                             EnumNameOf<ui::vnc::Protocol>{ui::vnc::Protocol::spice, "spice"}};
template <>
inline constexpr std::array enum_names<ui::vnc::Connected> = {EnumNameOf<ui::vnc::Connected>{ui::vnc::Connected::keep, "keep"},
                                                              EnumNameOf<ui::vnc::Connected>{ui::vnc::Connected::fail, "fail"},
                                                              EnumNameOf<ui::vnc::Connected>{ui::vnc::Connected::disconnect, "disconnect"}};
template <>
inline constexpr std::array fields<ui::vnc::ClientShown> = {
    field<&ui::vnc::ClientShown::host>("host", "Where it comes from."),
    field<&ui::vnc::ClientShown::service>("service", "Its port."),
    field<&ui::vnc::ClientShown::family>("family", "ipv4, ipv6 or unix."),
    field<&ui::vnc::ClientShown::websocket>("websocket", "It comes by websocket."),
};
template <>
inline constexpr std::array fields<ui::vnc::VncShown> = {
    field<&ui::vnc::VncShown::enabled>("enabled", "There is a server."),
    field<&ui::vnc::VncShown::host>("host", "Where it listens."),
    field<&ui::vnc::VncShown::family>("family", "ipv4, ipv6 or unix."),
    field<&ui::vnc::VncShown::service>("service", "Its port, or path."),
    field<&ui::vnc::VncShown::auth>("auth", "none or vnc."),
    field<&ui::vnc::VncShown::clients>("clients", "Viewers that were let in."),
};
template <>
inline constexpr std::array fields<ui::vnc::ListenerShown> = {
    field<&ui::vnc::ListenerShown::host>("host", "Where it listens."),
    field<&ui::vnc::ListenerShown::service>("service", "Its port, or path."),
    field<&ui::vnc::ListenerShown::family>("family", "ipv4, ipv6 or unix."),
    field<&ui::vnc::ListenerShown::websocket>("websocket", "For websockets."),
    field<&ui::vnc::ListenerShown::auth>("auth", "none or vnc."),
};
template <>
inline constexpr std::array fields<ui::vnc::ServerShown> = {
    field<&ui::vnc::ServerShown::id>("id", "Its name."),
    field<&ui::vnc::ServerShown::server>("server", "Where it listens."),
    field<&ui::vnc::ServerShown::clients>("clients", "Viewers that were let in."),
    field<&ui::vnc::ServerShown::auth>("auth", "none or vnc."),
};
template <>
inline constexpr std::array fields<ui::vnc::SetPasswordArgs> = {
    field<&ui::vnc::SetPasswordArgs::protocol>("protocol", "Kind of remote screen."),
    field<&ui::vnc::SetPasswordArgs::password>("password", "The new password; eight characters count."),
    field<&ui::vnc::SetPasswordArgs::connected>("connected", "What becomes of those who are connected; VNC keeps them."),
    field<&ui::vnc::SetPasswordArgs::display>("display", "The server; the first one if absent."),
};
template <>
inline constexpr std::array fields<ui::vnc::ExpirePasswordArgs> = {
    field<&ui::vnc::ExpirePasswordArgs::protocol>("protocol", "Kind of remote screen."),
    field<&ui::vnc::ExpirePasswordArgs::time>("time", "now, never, +SECONDS, or seconds since 1970."),
    field<&ui::vnc::ExpirePasswordArgs::display>("display", "The server; the first one if absent."),
};
template <>
inline constexpr std::array fields<ui::vnc::ChangePasswordArgs> = {
    field<&ui::vnc::ChangePasswordArgs::password>("password", "The new password."),
};
namespace ui::vnc {

namespace {
std::vector<ClientShown> shown(const std::vector<Address>& clients) {
  std::vector<ClientShown> out;
  for (const Address& a : clients) out.push_back({.host = a.host, .service = a.service, .family = a.family, .websocket = a.websocket});
  return out;
}

Result<Server*> server_for(Protocol protocol, const std::optional<std::string>& display) {
  if (protocol == Protocol::spice) return fail("SPICE is not part of this program");
  Server* const server = find_server(display.value_or(""));
  if (!server && display) return fail("Failed to find VNC display '{}'", *display);
  if (!server) return fail(ErrorClass::device_not_active, "No VNC display is present");
  return server;
}
}  // namespace

static Result<VncShown> query_vnc(control::Context&) {
  const auto servers = all_servers();
  VncShown out;
  if (servers.empty() || servers.front().address.family == "unknown") return out;
  const ServerInfo& s = servers.front();
  out = {.enabled = true,
         .host = s.address.host,
         .family = s.address.family,
         .service = s.address.service,
         .auth = s.auth,
         .clients = shown(s.clients)};
  return out;
}
static Result<std::vector<ServerShown>> query_vnc_servers(control::Context&) {
  std::vector<ServerShown> out;
  for (const ServerInfo& s : all_servers()) {
    ServerShown row{.id = s.id, .server = {}, .clients = shown(s.clients), .auth = s.auth};
    if (s.address.family != "unknown")
      row.server.push_back(
          {.host = s.address.host, .service = s.address.service, .family = s.address.family, .websocket = false, .auth = s.auth});
    if (s.websocket)
      row.server.push_back(
          {.host = s.websocket->host, .service = s.websocket->service, .family = s.websocket->family, .websocket = true, .auth = s.auth});
    out.push_back(std::move(row));
  }
  return out;
}

static Result<> set_password(control::Context&, const SetPasswordArgs& args) {
  Server* const server = TRY(server_for(args.protocol, args.display));
  if (args.connected.value_or(Connected::keep) != Connected::keep)
    return fail("parameter 'connected' must be 'keep' when 'protocol' is 'vnc'");
  return change_password(*server, args.password);
}
static Result<> expire_password(control::Context&, const ExpirePasswordArgs& args) {
  Server* const server = TRY(server_for(args.protocol, args.display));
  const i64 now = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  if (args.time == "now") return change_expiry(*server, i64{0});
  if (args.time == "never") return change_expiry(*server, std::nullopt);
  std::string_view text = args.time;
  const bool relative = text.starts_with('+');
  if (relative) text.remove_prefix(1);
  i64 seconds = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc{} || stop != text.data() + text.size() || seconds < 0 || seconds > i64{1} << 60)
    return fail("'time' takes now, never, +SECONDS or seconds since 1970, not '{}'", args.time.substr(0, 100));
  return change_expiry(*server, relative ? now + seconds : seconds);
}
static Result<> change_vnc_password(control::Context&, const ChangePasswordArgs& args) {
  Server* const server = find_server("");
  if (!server) return fail("Could not set password");
  return change_password(*server, args.password);
}

static Result<std::string> info_vnc(control::Context&, std::span<const std::string>) {
  const auto servers = all_servers();
  if (servers.empty()) return std::string{"None\n"};
  std::string out;
  for (const ServerInfo& s : servers) {
    const auto place = [](const Address& a) {
      return a.family == "unix" ? format("unix:{}", a.service) : format("{}:{}", a.host, a.service);
    };
    out += format("{}:\n", s.id);
    if (s.address.family != "unknown")
      out += format("  Server: {} ({})\n    Auth: {} (Sub: none)\n", place(s.address), s.address.family, s.auth);
    for (const Address& a : s.clients)
      out += format("  Client: {} ({})\n    x509_dname: none\n    sasl_username: none\n", place(a), a.family);
    if (s.clients.empty()) out += "  Client: none\n";
  }
  return out;
}
static Result<std::string> human_password(control::Context& context, std::span<const std::string> words) {
  if (words.size() < 2) return fail("set_password protocol password [-d display] [action-if-connected]: arguments are missing");
  Value arguments = Value::object();
  arguments.set("protocol", words[0]).set("password", words[1]);
  for (usize i = 2; i < words.size(); i++) {
    if (words[i] == "-d" && i + 1 < words.size())
      arguments.set("display", words[++i]);
    else
      arguments.set("connected", words[i]);
  }
  SetPasswordArgs args;
  TRY(assign_fields(&args, fields<SetPasswordArgs>, arguments));
  TRY(set_password(context, args));
  return std::string{};
}
static Result<std::string> human_expire(control::Context& context, std::span<const std::string> words) {
  if (words.size() < 2) return fail("expire_password protocol time [-d display]: arguments are missing");
  Value arguments = Value::object();
  arguments.set("protocol", words[0]).set("time", words[1]);
  if (words.size() == 4 && words[2] == "-d") arguments.set("display", words[3]);
  ExpirePasswordArgs args;
  TRY(assign_fields(&args, fields<ExpirePasswordArgs>, arguments));
  TRY(expire_password(context, args));
  return std::string{};
}

static control::Registered registered[] = {
    control::Registered{control::command<query_vnc>({.name = "query-vnc", .doc = "The VNC server and its viewers.", .since = "0.14"})},
    control::Registered{control::command<query_vnc_servers>({.name = "query-vnc-servers", .doc = "All VNC servers.", .since = "2.3"})},
    control::Registered{
        control::command<set_password>({.name = "set_password", .doc = "Sets a remote screen's password.", .since = "0.14"})},
    control::Registered{
        control::command<expire_password>({.name = "expire_password", .doc = "Says until when a password is good.", .since = "0.14"})},
    control::Registered{
        control::command<change_vnc_password>({.name = "change-vnc-password", .doc = "Sets the VNC server's password.", .since = "1.1"})},
    control::Registered{control::human<info_vnc>({.human = "info vnc", .human_help = "info vnc -- show the vnc server status"})},
    control::Registered{control::human<human_password>(
        {.human = "set_password",
         .human_help = "set_password protocol password [-d display] [action-if-connected] -- set spice/vnc password"})},
    control::Registered{control::human<human_expire>(
        {.human = "expire_password", .human_help = "expire_password protocol time [-d display] -- set spice/vnc password expire-time"})},
};

}  // namespace ui::vnc
}  // namespace vmm

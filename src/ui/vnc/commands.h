// What the monitors' commands and the servers know of each other.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::ui::vnc {

struct Address {
  std::string host, service, family = "unknown";
  bool websocket = false;
};
struct ServerInfo {
  std::string id;
  Address address;
  std::string auth;
  std::vector<Address> clients;
  std::optional<Address> websocket;  // where websockets are taken
};

class Server;
Server* find_server(std::string_view id);  // the first one for an empty id; null: none
std::vector<ServerInfo> all_servers();
Result<> change_password(Server& server, std::string password);
Result<> change_expiry(Server& server, std::optional<i64> seconds);  // since 1970; none: never
void disconnect_viewers(Server& server);
void adopt_viewer(Server& server, Fd socket);  // a connected socket

}  // namespace vmm::ui::vnc

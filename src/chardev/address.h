// Socket addresses of character back ends: made, listened on, connected to, printed.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm {

struct SocketAddress {
  std::string path;  // unix; else:
  std::string host, port;
  bool abstract = false, tight = true;
  bool is_unix() const { return !path.empty(); }
  std::string text() const;  // "unix:/x" or "tcp:host:port"
};
// Non-blocking, close-on-exec. `to`: last port to try (0: only the one given). `address.port` becomes the one that was got.
Result<Fd> listen_on(SocketAddress& address, u16 to, int family);
// Connects; `wait` false: may still be under way (EINPROGRESS), see connect_result().
Result<Fd> connect_to(const SocketAddress& address, int family, bool wait);
int connect_result(int fd);                         // errno, 0 when connected
std::string socket_name(int fd, bool of_the_peer);  // "127.0.0.1:4444"

}  // namespace vmm

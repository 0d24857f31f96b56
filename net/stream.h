// Stream sockets for the `socket` back end, whose other forms are datagrams.
#pragma once

#include "net/net.h"
#include "src/chardev/address.h"

namespace vmm::net {

Result<SocketAddress> parse_host_port(std::string_view text);  // "host:port", ":port"
Result<Ref<Netdev>> make_stream_socket(EventLoop& loop, const std::string& address, bool server);
Result<Ref<Netdev>> make_stream_fd(EventLoop& loop, Fd fd);

}  // namespace vmm::net

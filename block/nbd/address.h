// Where an NBD server is: the "server" of options trees, and the names that people type. Sources: "The NBD URI specification" (uri.md of
// the NetworkBlockDevice project), and the older forms that QEMU's manual page gives ("nbd:HOST:PORT[:exportname=NAME]").
#pragma once

#include "src/chardev/address.h"
#include "src/event/task.h"
#include "src/value/value.h"

namespace vmm::block::nbd {

struct Address {
  SocketAddress socket;  // unless fd
  std::optional<std::string> fd;
  std::optional<bool> ipv4, ipv6;
  u16 last_port = 0;  // of a server: the last one to try
};
// {"type": "inet" | "unix" | "fd", …}, with the members beside type, or in "data" as nbd-server-start has them.
Result<Address> read_address(const Value& tree);
// "nbd://…", "nbd+unix://…", "nbd:…": the options of the driver.
Result<Value> parse_name(std::string_view name);
// The name of an export at an address, as the first form has it.
std::string name_of(const Address& address, const std::string& export_name);

int family_of(const Address& address);
Task<Fd> connect(Address address, Nanoseconds deadline);
Result<Fd> listen(Address& address);

}  // namespace vmm::block::nbd

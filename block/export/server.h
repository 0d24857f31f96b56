// An NBD server: exports, and the connections of its clients. Source: proto.md of the NetworkBlockDevice project. All on one loop, the main
// one of the emulator or a tool's.
#pragma once

#include <list>

#include "block/export/export.h"
#include "block/nbd/address.h"
#include "src/event/async.h"

namespace vmm::block::nbd {

class Session;

class Server {
 public:
  struct Options {
    u32 most_clients = 100;  // at one time; who comes later waits in the listener's queue
    std::function<void()> client_gone{};
    std::function<void(const Export&)> export_gone{};
  };
  Server(EventLoop& loop, Options options);
  ~Server();  // stopped before

  Result<> listen(Address address);
  bool listening() const { return bool(listener_); }
  const Address& address() const { return address_; }
  u32 clients() const { return u32(sessions_.size()); }
  void adopt(Fd socket);  // a connection that somebody else has accepted

  Result<> add(ExportRef e);
  const std::list<ExportRef>& exports() const { return exports_; }
  ExportRef find(std::string_view name) const;
  ExportRef find_id(std::string_view id) const;
  // Takes no new clients for it; hard: sends away those that it has. It is gone when the last one is.
  Result<> remove(ExportRef e, bool hard);
  // No listener, no clients, no exports.
  Task<> stop();

 private:
  friend class Session;
  void accept_some();
  void listen_again();
  void end_of(Session& session);
  void drop_if_unused(const ExportRef& e);
  EventLoop& loop_;
  Options options_;
  Address address_;
  Fd listener_;
  FdWatch listening_;
  std::list<ExportRef> exports_;
  std::list<std::shared_ptr<Session>> sessions_;
  WaitList changed_;
};

}  // namespace vmm::block::nbd

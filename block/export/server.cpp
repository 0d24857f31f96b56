#include "block/export/server.h"

#include <sys/socket.h>
#include <unistd.h>

#include "block/export/session.h"
#include "src/base/host.h"

namespace vmm::block::nbd {

Server::Server(EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)) {}
Server::~Server() { ASSERT(sessions_.empty()); }

Result<> Server::listen(Address address) {
  if (listener_) return fail("NBD server already running");
  listener_ = TRY(nbd::listen(address));
  address_ = std::move(address);
  listen_again();
  return {};
}
void Server::listen_again() {
  if (listener_ && clients() < options_.most_clients) listening_.start(loop_, listener_.get(), EPOLLIN, [this](u32) { accept_some(); });
}
void Server::accept_some() {
  while (clients() < options_.most_clients) {
    Fd socket{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (!socket) return;
    adopt(std::move(socket));
  }
  listening_.stop();
}
void Server::adopt(Fd socket) {
  sessions_.push_back(std::make_shared<Session>(*this, std::move(socket)));
  const auto session = sessions_.back();  // it may end at once
  session->start();
}

void Server::end_of(Session& session) {
  const ExportRef e = session.chosen();
  if (e) e->clients--;
  std::erase_if(sessions_, [&](const auto& s) { return s.get() == &session; });
  if (e && e->closing) drop_if_unused(e);
  listen_again();
  if (options_.client_gone) options_.client_gone();
  changed_.wake_all();  // last: stop() ends with this
}

Result<> Server::add(ExportRef e) {
  if (find(e->options().name)) return fail("NBD server already has export named '{}'", e->options().name);
  exports_.push_back(std::move(e));
  return {};
}
ExportRef Server::find(std::string_view name) const {
  for (const auto& e : exports_)
    if (e->options().name == name && !e->closing) return e;
  return nullptr;
}
ExportRef Server::find_id(std::string_view id) const {
  for (const auto& e : exports_)
    if (e->options().id == id) return e;
  return nullptr;
}

Result<> Server::remove(ExportRef e, bool hard) {
  if (!hard && e->clients)
    return std::unexpected(
        Error{format("export '{}' still in use", e->options().id)}.with_hint("Use mode='hard' to force client disconnect"));
  e->closing = true;
  for (const auto& s : sessions_)
    if (s->chosen() == e) s->hang_up();
  drop_if_unused(e);
  return {};
}
void Server::drop_if_unused(const ExportRef& e) {
  if (e->clients) return;
  const ExportRef keep = e;
  if (!std::erase(exports_, keep)) return;
  if (options_.export_gone) options_.export_gone(*keep);
}

Task<> Server::stop() {
  listening_.stop();
  if (listener_ && address_.socket.is_unix() && !address_.socket.abstract && !address_.fd) host::remove_file(address_.socket.path);
  listener_.reset();
  for (const auto& s : sessions_) s->hang_up();
  const auto all = exports_;
  for (const auto& e : all) (void)remove(e, true);
  while (!sessions_.empty()) co_await changed_.wait();
  co_return Result<>{};
}

}  // namespace vmm::block::nbd

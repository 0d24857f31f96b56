// One client of an NBD server: the handshake, then requests, several at a time.
#pragma once

#include "block/export/server.h"
#include "block/nbd/stream.h"
#include "block/nbd/wire.h"

namespace vmm::block::nbd {

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Server& server, Fd socket) : server_(server), stream_(std::move(socket)) {}
  void start();
  void hang_up() { stream_.hang_up(); }
  const ExportRef& chosen() const { return export_; }

 private:
  struct Request {
    u16 flags = 0;
    Command command{};
    u64 cookie = 0, offset = 0;
    u32 length = 0;
    Buffer payload;
  };
  struct Context {
    u32 number;
    std::string name;
  };

  static Task<> run(std::shared_ptr<Session> self);
  // --- Handshake: true once an export is chosen, false when the client has left.
  Task<bool> negotiate();
  Task<bool> option(Option option, std::vector<u8> data);
  Task<> reply(Option option, OptionReply type, Message data = {});
  Task<> refuse(Option option, OptionReply type, std::string text) {
    Message m;
    m.text(text);
    return reply(option, type, std::move(m));
  }
  Task<> list_exports();
  Task<bool> inform(Option option, std::vector<u8> data);
  Task<> contexts(Option option, std::vector<u8> data);
  void choose(ExportRef e);

  // --- Transmission
  Task<> serve();
  static Task<> carry_out(std::shared_ptr<Session> self, std::shared_ptr<Request> request);
  Task<> perform(Request& r);
  Task<> read(Request& r);
  Task<> send_zeroes_apart(Request& r);
  Task<> status(Request& r);
  Task<> finish(const Request& r);
  Task<> fail_request(const Request& r, int os_error, std::string text);
  Task<> chunk(const Request& r, Chunk type, bool last, Message head, IoVector data = {});
  Task<> send(Message head, IoVector data);

  Server& server_;
  Stream stream_;
  ExportRef export_;
  bool no_zeroes_ = false, structured_ = false;
  std::string contexts_of_;  // the export that they were asked of
  std::vector<Context> contexts_;
  AsyncMutex sending_;
  u32 under_way_ = 0;
  u64 bytes_under_way_ = 0;
  WaitList ended_;
};

}  // namespace vmm::block::nbd

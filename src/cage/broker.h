// A small process, forked before the cage closes, that opens files, makes places for sockets and starts programs for the emulator, whose
// own threads then open nothing. It has the user's authority, as the command line and the monitor have: it is what keeps a thread that was
// taken over from asking the kernel itself, with paths of its own, and it has a list of what no machine ever needs to open.
// Requests and answers are datagrams of a SOCK_SEQPACKET pair, with descriptors by SCM_RIGHTS. It ends when the other end closes.
#pragma once

#include <functional>
#include <mutex>

#include "src/base/host.h"

namespace vmm::cage {

class BrokerClient final : public host::Broker {
 public:
  // Forks the broker. Without `programs` it starts none. While the process has one thread.
  static Result<BrokerClient*> start(bool programs);
  int open_file(const std::string& path, int flags, unsigned mode) override;
  int remove_file(const std::string& path) override;
  int make_link(const std::string& target, const std::string& path) override;
  int bind_socket(int fd, const sockaddr* address, socklen_t length) override;
  int look_up(const host::LookUp& what, int answer) override;
  int start_program(std::span<const std::string> words, int in, int out, int err, int status) override;
  // It follows us into another folder, another root, to another user: `become` runs there, made before the fork.
  int follow(const std::string& folder);
  int become();
  void end();
  int pid() const { return pid_; }

 private:
  struct Asked;
  int ask(const Asked& asked, int* got = nullptr);
  std::mutex mutex_;  // one request at a time
  Fd socket_;
  int pid_ = -1;
};

// What become() runs in the broker; set before start().
void set_become(std::function<bool()> become);

}  // namespace vmm::cage

// What the process asks of the host by name: files, programs, places for sockets; and what kind of work a thread is for. Without a cage (in
// tools, with -sandbox off) these are the process's own system calls. In one a broker makes them, or nobody. Any thread.
#pragma once

#include <sys/socket.h>

#include <span>
#include <string>
#include <vector>

#include "src/base/fd.h"
#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::host {

// As open(2), unlink(2) and bind(2): -1 and errno.
int open_file(const std::string& path, int flags, unsigned mode = 0);
int remove_file(const std::string& path);
int make_link(const std::string& target, const std::string& path);  // symlink(2)
int bind_socket(int fd, const sockaddr* address, socklen_t length);
// A path in `folder` that nobody can have foreseen, for open_file() with O_EXCL.
std::string random_path(const std::string& folder, std::string_view prefix);
// The whole text of a small file of the host's, as /proc has them; empty where it cannot be read.
std::string read_text(const std::string& path);

// An address that a name stands for.
struct Address {
  i32 family = 0, type = 0, protocol = 0;
  socklen_t length = 0;
  sockaddr_storage bytes{};
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&bytes); }
};
// As getaddrinfo(3): what it wants and says. At least one address; the error's text is gai_strerror(3)'s.
struct LookUp {
  std::string host, port;  // host empty: any, or our own
  int family = 0, type = 0, flags = 0;
};
Result<std::vector<Address>> look_up(const LookUp& what);

// A program that was started.
class Program {
 public:
  Program() = default;
  explicit Program(Fd status) : status_(std::move(status)) {}
  explicit Program(int child) : child_(child) {}
  // Waits for its end, once: what waitpid(2) stores.
  Result<int> wait();
  explicit operator bool() const { return status_ || child_ > 0; }

 private:
  Fd status_;       // its status comes out of here,
  int child_ = -1;  // or it is a child of ours
};
// Starts `words[0]`, a path, with standard input and output from `in` and `out` (below 0: ours). errno tells why not.
Result<Program> start_program(std::span<const std::string> words, int in = -1, int out = -1);

// Who does it for us.
class Broker {
 public:
  virtual ~Broker() = default;
  virtual int open_file(const std::string& path, int flags, unsigned mode) = 0;
  virtual int remove_file(const std::string& path) = 0;
  virtual int make_link(const std::string& target, const std::string& path) = 0;
  virtual int bind_socket(int fd, const sockaddr* address, socklen_t length) = 0;
  // `answer` is a pipe for the bytes of an answer_look_up().
  virtual int look_up(const LookUp& what, int answer) = 0;
  virtual int start_program(std::span<const std::string> words, int in, int out, int err, int status) = 0;
};
// From now on names are the broker's. Once, before there are other threads.
void set_broker(Broker* broker);
// A folder that a library reads by itself. While the machine is built it is noted, and stays readable when the cage closes; after that it
// is an error if it is not. Main thread.
Result<> keep_readable(const std::string& folder);
// The folders noted; from now on no more.
std::vector<std::string> close_readable();
// From now on nobody opens anything (EPERM), the broker neither.
void refuse_names();
// Starts the program as a grandchild whose status comes to `status` at its end: for the broker, a small process. -1 and errno.
int start_program_here(std::span<const std::string> words, int in, int out, int err, int status);

void answer_look_up(const LookUp& what, int answer);

// What a thread does all its life, and so what it may ask of the kernel. Said by the thread itself, at its beginning; one that says nothing
// may do what the main thread may.
enum class ThreadKind : u8 { vcpu, io };
void begin_thread(ThreadKind kind);
// `enter` is called by each such thread that begins from now on. Once, before there are any.
void on_thread_begin(void (*enter)(ThreadKind));

}  // namespace vmm::host

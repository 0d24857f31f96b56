// The process around the machine: going to the background, the pid file, signals. Source: contract.md §1.3, §7.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "src/base/fd.h"
#include "src/base/result.h"

namespace vmm::cli {

// Splits off a child in its own session, which goes on here. The parent waits for report_ready() (then exits 0) or for the child's end
// (then exits 1; the child has printed why).
class Daemon {
 public:
  Result<> begin();
  // Everything listens and is written: descriptors 0, 1, 2 become /dev/null, the folder `/`, and the parent ends.
  Result<> report_ready();

 private:
  Fd pipe_;
};

// A locked file with our process id, gone at the end.
class PidFile {
 public:
  ~PidFile() { remove(); }
  Result<> write(const std::string& path);
  void remove();

 private:
  std::string path_;
  Fd file_;
};

// INT, TERM and HUP. A thread of its own takes them, so that the second one ends us whatever the main loop does: it restores the
// terminal and leaves. Construct before any other thread is made.
class Signals {
 public:
  Signals();
  // Both are called on the signals' thread: `first` with the signal and its sender, `again` before the process ends at once.
  void start(std::function<void(int signal, int pid)> first, std::function<void()> again);
  ~Signals();

 private:
  std::jthread thread_;
};

// "12 (bash)" for messages; the number alone if its name is not known.
std::string process_name(int pid);
void set_process_name(const std::string& name);

}  // namespace vmm::cli

// Terminals that we make raw, and give back as they were.
#pragma once

#include "src/base/result.h"

namespace vmm {

struct TerminalMode {
  bool echo = false;     // and line ends as a person types them
  bool signals = false;  // Ctrl-C, Ctrl-Z, Ctrl-\ are the terminal's
};
// Remembers the terminal's state at the first call for a descriptor; nothing if it is no terminal. At most four.
void set_terminal(int fd, TerminalMode mode);
// Non-blocking until restore_terminals(). Only for descriptors that cannot be opened anew.
void set_nonblocking_until_end(int fd);

}  // namespace vmm

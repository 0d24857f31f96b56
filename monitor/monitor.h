// The monitors: QMP (JSON, for programs) and HMP (text, for people) over a character device. Both run Commands that they have never
// heard of. Source: contract.md §2.1 and §4. Main loop, machine lock held.
#pragma once

#include <memory>
#include <string>

#include "src/chardev/chardev.h"
#include "src/control/command.h"

namespace vmm::monitor {

class Monitor {
 public:
  enum class Mode { human, control };
  struct Options {
    Mode mode = Mode::human;
    bool pretty = false;
    // QMP commands marked as deprecated or unstable: what -compat says of them.
    enum class Input : u8 { accept, reject, crash } deprecated = Input::accept, unstable = Input::accept;
  };
  // Attaches to the chardev, or says why not.
  static Result<std::unique_ptr<Monitor>> make(Ref<Chardev> chardev, Options options);
  virtual ~Monitor();
};

// One line of HMP: the text that it prints. Errors are in the text, as "Error: …".
std::string run_human_line(control::Context& context, std::string_view line);

}  // namespace vmm::monitor

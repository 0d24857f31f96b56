// The debugger's door: a chardev on which gdb's remote protocol is spoken. One at a time; `-gdb`, `-s` and HMP `gdbserver` open it.
#pragma once

#include <functional>
#include <string>

#include "src/base/result.h"
#include "src/value/value.h"

namespace vmm {
class EventLoop;
namespace vm {
class Machine;
}
}  // namespace vmm

namespace vmm::gdb {

// `device`: as -serial takes it; "none": nothing, and an open door is closed. Attaching needs a machine with a CPU.
Result<> listen(vm::Machine& machine, std::string_view device);
void close();
// How `monitor LINE` runs; said once by who knows the monitors.
void set_command_runner(std::function<std::string(std::string_view line)> run);

}  // namespace vmm::gdb

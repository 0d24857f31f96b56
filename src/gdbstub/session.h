// What gdb asks, answered: one conversation about one machine, apart from the wire. Main loop, machine lock held.
// Source: contract.md §5; "Debugging with GDB", appendix E.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "src/gdbstub/packet.h"
#include "src/gdbstub/registers.h"
#include "src/vm/machine.h"

namespace vmm::gdb {

class Session {
 public:
  struct Wire {
    std::function<void(std::string_view data)> reply;               // a packet, to be framed
    std::function<std::string(std::string_view line)> run_command;  // `monitor LINE`: a line of HMP
  };
  Session(vm::Machine& machine, Wire wire);

  void begin();      // a client has connected: all vCPUs stop
  void end();        // it has gone: its points too
  void interrupt();  // 0x03
  void packet(std::string_view data);
  // A vCPU has stopped by itself; the machine has stopped, for whatever reason.
  void vcpu_stopped(vm::Vcpu& vcpu, const vm::DebugStop& stop);
  void machine_stopped();
  bool acknowledges() const { return !no_ack_; }

 private:
  enum class Action : u8 { none, go, step };
  struct Threads {  // what a thread id names
    bool all = false;
    vm::Vcpu* one = nullptr;
    bool holds(const vm::Vcpu& vcpu) const { return all || one == &vcpu; }
  };
  void send(std::string_view data);
  void error(unsigned number) { send(format("E{:02x}", number)); }
  bool stop_machine(vm::Status why);
  void send_stop(unsigned signal, const vm::Vcpu& vcpu, std::string_view more = {});
  std::string thread_id(const vm::Vcpu& vcpu) const;
  std::optional<Threads> take_threads(std::string_view& text);
  vm::Vcpu* first(const Threads& threads) const { return threads.one ? threads.one : machine_.vcpus().front().get(); }

  bool query(std::string_view text);  // q and Q; false: not known
  bool cont_packet(std::string_view text);
  void set_threads(std::string_view text);
  void read_registers();
  void write_registers(std::string_view hex);
  void one_register(std::string_view text, bool write);
  void read_memory(std::string_view text);
  void write_memory(std::string_view text, bool binary);
  void point(std::string_view text, bool insert);
  void features(std::string_view text);
  void monitor_command(std::string_view hex);
  void legacy_resume(std::string_view text, Action action, bool with_signal);
  void resume(const std::vector<Action>& actions);
  bool access(u64 address, std::span<u8> bytes, bool write, usize& done);

  vm::Machine& machine_;
  Wire wire_;
  Registers registers_;
  vm::Vcpu *general_, *control_;  // selected by Hg and Hc
  bool multiprocess_ = false, no_ack_ = false, physical_ = false;
  unsigned step_mask_ = 7;
  bool owed_ = false;  // gdb waits to be told of a stop
  unsigned signal_ = 5;
  vm::Vcpu* stopped_vcpu_ = nullptr;  // with its reason, while the machine is being stopped for it
  vm::DebugStop stop_;
};

// Where a running Linux lies in relation to where it was linked, by what its page tables map (KASLR); none: it does not look like one.
std::optional<u64> linux_text_offset(vm::Machine& machine);

}  // namespace vmm::gdb

// A CPU's registers as gdb numbers them, and the description by which gdb learns the numbers. The layout follows the CPU's type and
// never its mode (contract.md §5): gdb cannot change it while it is connected.
// Source: "Debugging with GDB", appendix G (target descriptions, i386 features).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/types.h"
#include "src/vm/vcpu.h"

namespace vmm::gdb {

class Registers {
 public:
  explicit Registers(const x86::CpuModel& model);

  usize count() const { return rows_.size(); }
  usize bytes() const { return bytes_; }  // of all
  usize size_of(usize number) const { return rows_[number].bytes; }
  // Little endian; `out` and `from` are size_of(number) bytes. The vCPU is stopped.
  void get(vm::Vcpu& vcpu, usize number, std::span<u8> out) const;
  void set(vm::Vcpu& vcpu, usize number, std::span<const u8> from) const;
  const std::string& target_xml() const { return xml_; }

 private:
  enum class Kind : u8 { gpr, rip, eflags, selector, st, x87_control, xmm, mxcsr, ymm_high, pkru, base, kernel_gs_base, control, efer };
  struct Row {
    std::string name;
    u8 bytes;
    Kind kind;
    u8 index;
    std::string_view type;
    std::string_view group{};
  };
  void add(std::string name, unsigned bytes, Kind kind, unsigned index, std::string_view type, std::string_view group = {});
  void begin(std::string_view feature, std::string_view types = {});
  void end();

  std::vector<Row> rows_;
  usize bytes_ = 0;
  std::string xml_;
};

}  // namespace vmm::gdb

// x86 code as text, by capstone. The library is loaded when somebody wants to read code: few machines ever do, and its tables are megabytes
// that a start would have to relocate.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/types.h"

namespace vmm::x86 {

struct CodeLine {
  u64 address = 0;
  usize bytes = 0;
  std::string mnemonic, operands;
};
enum class CodeSyntax : u8 { att, intel };

// Loads the library; false where it is not installed. Not by virtual CPUs' threads, which open nothing: who asks for their code (-d in_asm,
// verify=on) calls this first. Main thread.
bool load_disassembler();
// At most `most` instructions (0: all), up to the first bytes that are none. Empty without the library. `width`: 16, 32 or 64. Any thread.
std::vector<CodeLine> disassemble(std::span<const u8> code, u64 address, unsigned width, CodeSyntax syntax, usize most = 0);

}  // namespace vmm::x86

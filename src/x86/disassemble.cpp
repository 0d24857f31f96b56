#include "src/x86/disassemble.h"

#include <capstone/capstone.h>
#include <dlfcn.h>

#include <atomic>

namespace vmm::x86 {

namespace {
struct Library {
  decltype(&cs_open) open = nullptr;
  decltype(&cs_option) option = nullptr;
  decltype(&cs_disasm) disassemble = nullptr;
  decltype(&cs_free) free = nullptr;
  decltype(&cs_close) close = nullptr;
};
std::atomic<const Library*> library{nullptr};
}  // namespace

bool load_disassembler() {
  static const bool loaded = [] {
    static Library found;
    void* const handle = ::dlopen("libcapstone.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!handle) return false;
    const auto get = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(handle, name));
      return function != nullptr;
    };
    if (!get(found.open, "cs_open") || !get(found.option, "cs_option") || !get(found.disassemble, "cs_disasm") ||
        !get(found.free, "cs_free") || !get(found.close, "cs_close"))
      return false;
    library = &found;
    return true;
  }();
  return loaded;
}

std::vector<CodeLine> disassemble(std::span<const u8> code, u64 address, unsigned width, CodeSyntax syntax, usize most) {
  std::vector<CodeLine> lines;
  const Library* const l = library;
  csh handle;
  const cs_mode mode = width == 64 ? CS_MODE_64 : width == 32 ? CS_MODE_32 : CS_MODE_16;
  if (!l || l->open(CS_ARCH_X86, mode, &handle) != CS_ERR_OK) return lines;
  if (syntax == CodeSyntax::att) l->option(handle, CS_OPT_SYNTAX, CS_OPT_SYNTAX_ATT);
  cs_insn* found = nullptr;
  const usize count = l->disassemble(handle, code.data(), code.size(), address, most, &found);
  for (usize i = 0; i < count; i++)
    lines.push_back({.address = found[i].address, .bytes = found[i].size, .mnemonic = found[i].mnemonic, .operands = found[i].op_str});
  if (count) l->free(found, count);
  l->close(&handle);
  return lines;
}

}  // namespace vmm::x86

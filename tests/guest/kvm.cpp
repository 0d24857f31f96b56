// Runs one bare-metal test of this folder on the host's own CPU by /dev/kvm: the same ELF file, the same ports (E9h prints, F4h ends).
// Usage: kvm FILE.elf. Exit: 0 passed, 1 failed, 77 no usable /dev/kvm. Source: Linux Documentation/virt/kvm/api.rst.
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr size_t ram_bytes = 64 << 20;
// kvm_cpuid2 ends in a flexible array, which C++ makes four bytes longer than the kernel's: the numbers are of its eight bytes.
constexpr unsigned long get_supported_cpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8), set_cpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
struct Leaves {
  __u32 count, padding;
  kvm_cpuid_entry2 entry[256];
};

[[noreturn]] void skip(const char* why) {
  std::printf("SKIP %s\n", why);
  std::exit(77);
}
[[noreturn]] void fail(const char* why) {
  std::printf("kvm: %s (%s)\n", why, std::strerror(errno));
  std::exit(1);
}

unsigned load(const char* path, unsigned char* ram) {
  std::FILE* const f = std::fopen(path, "rb");
  if (!f) fail("cannot read the test");
  std::vector<unsigned char> file(1 << 22);
  file.resize(std::fread(file.data(), 1, file.size(), f));
  std::fclose(f);
  Elf32_Ehdr header;
  std::memcpy(&header, file.data(), sizeof header);
  for (unsigned i = 0; i < header.e_phnum; i++) {
    Elf32_Phdr part;
    std::memcpy(&part, file.data() + header.e_phoff + i * sizeof part, sizeof part);
    if (part.p_type == PT_LOAD) std::memcpy(ram + part.p_paddr, file.data() + part.p_offset, part.p_filesz);
  }
  return header.e_entry;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) fail("usage: kvm FILE.elf");
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0 || ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) skip("no usable /dev/kvm");
  const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  if (vm < 0 || ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000) < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0) skip("KVM makes no machine here");
  auto* const ram = static_cast<unsigned char*>(mmap(nullptr, ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const kvm_userspace_memory_region region{
      .slot = 0, .guest_phys_addr = 0, .memory_size = ram_bytes, .userspace_addr = reinterpret_cast<__u64>(ram)};
  if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) fail("memory");
  const unsigned entry = load(argv[1], ram);
  const int cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  if (cpu < 0) skip("KVM makes no CPU here");
  auto* const run = static_cast<kvm_run*>(
      mmap(nullptr, static_cast<size_t>(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)), PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0));

  static Leaves leaves{.count = 256, .padding = 0, .entry = {}};
  if (ioctl(kvm, get_supported_cpuid, &leaves) < 0 || ioctl(cpu, set_cpuid2, &leaves) < 0) fail("CPUID");

  kvm_sregs s;
  if (ioctl(cpu, KVM_GET_SREGS, &s) < 0) fail("registers");
  const kvm_segment data{.limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
  s.ds = s.es = s.fs = s.gs = s.ss = data;
  s.cs = data;
  s.cs.selector = 8, s.cs.type = 11;
  s.cr0 = 0x11;
  if (ioctl(cpu, KVM_SET_SREGS, &s) < 0) fail("segments");
  const kvm_regs r{.rax = 0x2badb002, .rip = entry, .rflags = 2};
  if (ioctl(cpu, KVM_SET_REGS, &r) < 0) fail("registers");

  alarm(4);  // all of these take milliseconds: what still runs then hangs for good
  for (;;) {
    if (ioctl(cpu, KVM_RUN, 0) < 0) fail("KVM_RUN");
    if (run->exit_reason == KVM_EXIT_IO) {
      unsigned char* const bytes = reinterpret_cast<unsigned char*>(run) + run->io.data_offset;
      if (run->io.direction == KVM_EXIT_IO_IN) {
        std::memset(bytes, 0xff, run->io.size * run->io.count);
      } else if (run->io.port == 0xe9) {
        std::fwrite(bytes, 1, run->io.size * run->io.count, stdout);
      } else if (run->io.port == 0xf4) {
        return *bytes == 0x10 ? 0 : 1;
      }
      continue;
    }
    if (run->exit_reason == KVM_EXIT_MMIO) {
      if (!run->mmio.is_write) std::memset(run->mmio.data, 0xff, sizeof run->mmio.data);
      continue;
    }
    if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR && run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
      skip("this KVM cannot execute an instruction of it");
    kvm_regs now;
    ioctl(cpu, KVM_GET_REGS, &now);
    std::printf("kvm: exit %u at %llx\n", run->exit_reason, now.rip);
    return 1;
  }
}

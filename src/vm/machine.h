// The machine as a whole. Boards (hw/machine) derive from it; the command line fills `config` before realize.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/event/event_loop.h"
#include "src/memory/memory.h"
#include "src/object/object.h"
#include "src/vm/accelerator.h"
#include "src/vm/debug.h"
#include "src/vm/irqchip.h"
#include "src/vm/run_state.h"
#include "src/vm/vcpu.h"

namespace vmm::vm {

struct Topology {
  unsigned cpus = 1, max_cpus = 1, sockets = 1, dies = 1, cores = 1, threads = 1;
};

struct FwCfgItem {
  std::string name;  // "opt/…"
  std::vector<u8> data;
};

// The user's word on the machine (-m, -smp, -kernel, …), checked for form only.
struct MachineConfig {
  u64 ram_bytes = 128 * MiB;
  u64 max_ram_bytes = 0;
  unsigned ram_slots = 0;
  std::string ram_backend;  // memory-backend= id
  std::string mem_path;
  bool mem_prealloc = false, mem_share = false, mem_lock = false;
  Topology smp;
  std::string cpu;  // "-cpu" text; empty: the board's default
  std::string kernel, initrd, append, bios;
  std::vector<std::string> firmware_folders;  // -L, then the usual ones
  std::string vga = "std";                    // -vga
  bool vga_given = false;
  bool no_defaults = false;
  bool display_none = true;
  std::vector<std::string> serial_chardevs;  // ids of chardevs for COM1…; "" = none
  std::vector<std::string> parallel_chardevs;
  std::vector<FwCfgItem> fw_cfg;
  std::vector<Value> smbios;  // one object a -smbios option
  struct Rtc {
    std::string base = "utc";    // utc | localtime | ISO date
    std::string clock = "host";  // host | rt | vm
    bool slew = false;
  } rtc;
  struct Boot {
    std::string order = "cad", once;
    bool menu = false, strict = false;
    int splash_time = -1, reboot_timeout = -1;
    std::string splash;
  } boot;
  std::string name, uuid;
  bool uuid_given = false;
};

class Machine : public Object {
 public:
  static const TypeInfo type;
  ~Machine() override;

  MachineConfig config;

  // --- Life. The command line: make, set properties, set_accelerator, then realize() with the machine lock held.
  void attach_loop(EventLoop& main_loop);  // before realize; binds clocks
  void set_accelerator(Ref<Accelerator> accelerator);
  virtual Result<> realize() = 0;  // makes RAM, CPUs, devices; loads firmware and kernel
  // After -device lines: last look at boot order, ACPI tables, fw_cfg files; freezes them.
  virtual Result<> finish() { return {}; }
  virtual void reset(Cause cause) = 0;  // the two walks over all devices and CPUs
  virtual Result<> plug_devices_default() { return {}; }

  // --- Parts
  Accelerator& accelerator() const { return *accelerator_; }
  bool has_accelerator() const { return static_cast<bool>(accelerator_); }
  Irqchip* irqchip() const { return accelerator_ ? accelerator_->irqchip() : nullptr; }
  RunState& run_state() { return run_state_; }
  Debug& debug() { return debug_; }
  TimeDomain& time_domain() { return time_domain_; }
  EventLoop& main_loop() const { return *main_loop_; }
  memory::MemoryRegion& memory_root() { return memory_root_; }  // "system"
  memory::MemoryRegion& port_root() { return port_root_; }      // "io", 64 KiB
  memory::AddressSpace& memory() { return *memory_; }
  memory::AddressSpace& ports() { return *ports_; }
  const std::vector<std::unique_ptr<Vcpu>>& vcpus() const { return vcpus_; }
  Object& unattached() { return *unattached_; }  // /machine/unattached
  Object& peripheral() { return *peripheral_; }  // /machine/peripheral
  Object& peripheral_anon() { return *peripheral_anon_; }
  const std::shared_ptr<memory::RamBlock>& ram() const { return ram_; }
  virtual CoprocessorError* coprocessor_error() { return nullptr; }

  // Non-maskable interrupt button (HMP nmi, inject-nmi).
  virtual void inject_nmi();
  // Finds a firmware file: a path as it is, or a name in the -L folders and the usual ones. The error lists where it looked.
  Result<std::string> find_firmware(const std::string& name) const;
  // `info NAME` topics and `screendump` of boards: text by topic; empty: no such topic here.
  virtual std::string describe(std::string_view topic) { return {}; }

 protected:
  Machine();
  Result<> make_ram(std::string name);                  // config.ram_* → ram_
  Result<> make_vcpus(std::string_view default_model);  // config.smp, config.cpu → vcpus_ (parked), QOM objects
  void add_vcpu(std::unique_ptr<Vcpu> vcpu) { vcpus_.push_back(std::move(vcpu)); }

  EventLoop* main_loop_ = nullptr;
  TimeDomain time_domain_;
  memory::MemoryRegion memory_root_, port_root_;
  std::unique_ptr<memory::AddressSpace> memory_, ports_;
  std::shared_ptr<memory::RamBlock> ram_;
  Ref<Object> ram_backend_;  // where ram_ comes from
  Ref<Accelerator> accelerator_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::shared_ptr<const x86::CpuModel> cpu_model_;
  RunState run_state_;
  Debug debug_;
  Object* unattached_ = nullptr;
  Object* peripheral_ = nullptr;
  Object* peripheral_anon_ = nullptr;
};

// The one machine of this process, once the command line has made it; null before.
Machine* current_machine();
void set_current_machine(Machine* machine);

// What a machine type says beside its TypeInfo (query-machines, -machine help).
struct MachineTypeInfo {
  const TypeInfo* type = nullptr;  // type name is NAME + "-machine"
  std::string_view name, description, alias;
  bool is_default = false;
  unsigned max_cpus = 1;
  std::string_view default_cpu = "qemu64-x86_64-cpu";
  std::string_view default_ram_id = "pc.ram";
  bool hotpluggable_cpus = false, numa_mem_supported = true, acpi = true, deprecated = false;
};
struct RegisteredMachine {
  explicit RegisteredMachine(const MachineTypeInfo& info);
};
std::vector<const MachineTypeInfo*> all_machine_types();  // newest first within a family, as -machine help shows
const MachineTypeInfo* find_machine_type(std::string_view name_or_alias);

}  // namespace vmm::vm

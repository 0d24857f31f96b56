#include "src/vm/machine.h"

#include <sys/stat.h>

#include <algorithm>

#include "src/base/log.h"
#include "src/vm/memory_backend.h"

namespace vmm::vm {
namespace {

Machine* the_machine = nullptr;

std::vector<const MachineTypeInfo*>& machine_types() {
  static std::vector<const MachineTypeInfo*> list;
  return list;
}

bool is_file(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

}  // namespace

constinit const TypeInfo Machine::type{
    .name = "machine", .doc = "A board with its CPUs, memory and devices.", .parent = &Object::type, .user_creatable = false};
static Registered registered_machine{Machine::type};
constinit const TypeInfo Accelerator::type{
    .name = "accel", .doc = "What runs guest code.", .parent = &Object::type, .user_creatable = false};
static Registered registered_accelerator{Accelerator::type};

Machine::Machine() : run_state_(*this) {
  memory_root_.init_container(this, "system", u128{1} << 64);
  port_root_.init_container(this, "io", 0x10000);
  memory_ = std::make_unique<memory::AddressSpace>("memory", memory_root_);
  ports_ = std::make_unique<memory::AddressSpace>("I/O", port_root_);
  for (auto [name, slot] : {std::pair{"unattached", &unattached_}, {"peripheral", &peripheral_}, {"peripheral-anon", &peripheral_anon_}}) {
    Ref<Object> folder = make_folder();
    *slot = folder.get();
    add_child(name, folder);
  }
}

Machine::~Machine() {
  for (const auto& vcpu : vcpus_) vcpu->finish();
  if (the_machine == this) the_machine = nullptr;
  if (auto* backend = object_cast<MemoryBackend>(ram_backend_.get())) {
    backend->give_back();
    if (config.ram_backend.empty() && backend->parent()) backend->parent()->remove_child(*backend);
  }
  // Devices go while the clocks that their timers hang on, and the memory map, are still there.
  while (!children().empty()) remove_child(*children().back());
  reclaim_dropped_objects();
}

void Machine::attach_loop(EventLoop& main_loop) {
  main_loop_ = &main_loop;
  main_loop.add_time_domain(time_domain_);
}

void Machine::set_accelerator(Ref<Accelerator> accelerator) { accelerator_ = std::move(accelerator); }

// Without memory-backend= the board's RAM is an object of its own too, so that it can be looked at in the same way.
Result<> Machine::make_ram(std::string name) {
  Object& folder = *root_object().child("objects");
  Ref<MemoryBackend> backend;
  if (!config.ram_backend.empty()) {
    backend = Ref<MemoryBackend>{object_cast<MemoryBackend>(folder.child(config.ram_backend))};
    if (!backend) return fail("Memory backend '{}' not found", config.ram_backend);
    if (backend->size_bytes() != config.ram_bytes) return fail("Machine memory size does not match the size of the memory backend");
  } else {
    if (folder.child(name)) reclaim_dropped_objects();  // an earlier machine's
    if (folder.child(name)) return fail("the name '{}' is the board's own; give the object another id, or memory-backend={}", name, name);
    backend = object_cast<MemoryBackend>(make_object(*find_type(config.mem_path.empty() ? "memory-backend-ram" : "memory-backend-file")));
    TRY(backend->set("size", Value{config.ram_bytes}));
    TRY(backend->set("share", Value{config.mem_share}));
    TRY(backend->set("prealloc", Value{config.mem_prealloc}));
    if (!config.mem_path.empty()) TRY(backend->set("mem-path", Value{config.mem_path}));
    folder.add_child(name, backend);
    if (auto made = backend->complete(); !made) {
      folder.remove_child(*backend);
      return made;
    }
  }
  TRY(backend->take("/machine"));
  ram_ = backend->block();
  ram_backend_ = backend;
  return {};
}

void Machine::inject_nmi() {
  for (const auto& vcpu : vcpus_) vcpu->post(Request::nmi);
}

Result<std::string> Machine::find_firmware(const std::string& name) const {
  if (name.find('/') != name.npos || is_file(name)) {
    if (is_file(name)) return name;
    return fail("Could not find firmware file '{}'", name);
  }
  std::string looked;
  std::vector<std::string> folders = config.firmware_folders;
  for (const char* usual : {"/usr/share/vmm", "/usr/share/seabios", "/usr/share/qemu", "/usr/lib/ipxe/qemu", "/usr/share/OVMF"})
    folders.push_back(usual);
  for (const std::string& folder : folders) {
    const std::string path = folder + "/" + name;
    if (is_file(path)) return path;
    looked += "\n  " + folder;
  }
  Error error{format("Could not find firmware file '{}'", name)};
  error.hint = "looked in:" + looked + "\nDebian's package 'seabios' has the PC firmware; -L DIR adds a folder";
  return std::unexpected(std::move(error));
}

Machine* current_machine() { return the_machine; }
void set_current_machine(Machine* machine) { the_machine = machine; }

RegisteredMachine::RegisteredMachine(const MachineTypeInfo& info) {
  machine_types().push_back(&info);
  register_type(*info.type);
}
std::vector<const MachineTypeInfo*> all_machine_types() {
  auto list = machine_types();
  // Names end in a version: newest first within a family, families by name.
  auto key = [](const MachineTypeInfo* m) {
    const auto dash = m->name.rfind('-');
    int major = 0, minor = 0;
    if (dash == std::string_view::npos || std::sscanf(std::string{m->name.substr(dash + 1)}.c_str(), "%d.%d", &major, &minor) != 2)
      return std::tuple{m->name, 0, 0};
    return std::tuple{m->name.substr(0, dash), -major, -minor};
  };
  std::ranges::sort(list, {}, key);
  return list;
}
const MachineTypeInfo* find_machine_type(std::string_view name) {
  for (const auto* m : machine_types())
    if (m->name == name || (!m->alias.empty() && m->alias == name)) return m;
  return nullptr;
}

}  // namespace vmm::vm

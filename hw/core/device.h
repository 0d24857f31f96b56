// Device and Bus: the life of everything that a guest can see (style.md, "Objects and devices"). Machine lock held unless noted.
#pragma once

#include <string>
#include <vector>

#include "hw/core/irq.h"
#include "src/event/clock.h"
#include "src/event/task.h"
#include "src/memory/memory.h"
#include "src/object/object.h"
#include "src/vm/machine.h"

namespace vmm::hw {

class Device;

// A place that devices plug into; an Object of the tree, child of the device that provides it.
class Bus : public Object {
 public:
  static const TypeInfo type;
  const std::vector<Device*>& devices() const { return devices_; }
  virtual std::string_view bus_type() const = 0;     // "PCI", "ISA", "System": what TypeInfo::bus names
  virtual Result<> may_plug(Device&) { return {}; }  // address free?
  virtual Result<> plugged(Device&) { return {}; }   // before realize: assign the address
  virtual void unplugged(Device&) {}
  virtual std::string address_of(const Device&) const { return {}; }  // for firmware paths
  // Lines of `info qtree` about a device on this bus, without indentation.
  virtual std::vector<std::string> describe(const Device&) const { return {}; }

 private:
  friend class Device;
  std::vector<Device*> devices_;
};

class Device : public Object {
 public:
  static const TypeInfo type;
  ~Device() override;

  // Plugs into the bus (null: none), realizes children-first order left to realize() itself. The device must be in the tree.
  // On failure everything is undone.
  Result<> attach(Bus* bus);
  // Leaves the machine: unrealize, unplug, leave the tree, DEVICE_DELETED if it has an id.
  Task<> detach();
  bool realized() const { return realized_; }
  Bus* bus() const { return bus_; }
  const std::string& id() const { return id_; }  // user's id= ; empty if none
  void set_id(std::string id) { id_ = std::move(id); }
  bool properties_frozen() const override { return realized_; }

  // Reset of a subtree is two walks: reset() everywhere (own state only), then settle() everywhere (lines from state).
  virtual void reset() {}
  virtual void settle() {}
  void reset_tree();

  vm::Machine& machine() const;  // valid once in the tree of a machine
  TimeDomain& time_domain() const { return machine().time_domain(); }

  // Buses that this device provides (children of it).
  void add_bus(std::string name, Ref<Bus> bus);
  const std::vector<Bus*>& buses() const { return buses_; }

  // What realize() maps for a board to place: regions and lines by index, in order of the calls.
  const std::vector<memory::MemoryRegion*>& regions() const { return regions_; }
  const std::vector<Irq*>& irqs() const { return irqs_; }

  // State for migration, snapshots and conformance: by the `state` Fields of all types of the chain.
  Value save() const;
  Result<> load(const Value& state);
  virtual void before_save() {}
  virtual Result<> after_load() { return {}; }

  // --- Firmware's names (IEEE 1275 paths, as SeaBIOS and OVMF compare them with what they find; the published interface of fw_cfg's
  // "bootorder"). A device's part of the path: "scsi@4", "pci@i0cf8"; empty: it has none.
  virtual std::string firmware_node() const { return {}; }
  // What of this device one can start from: `bootindex=`, and the path's tail below firmware_node() ("/disk@0,0"). Disks add their
  // geometry in sectors of 512 bytes where the user has set one.
  struct BootEntry {
    i32 index = -1;
    std::string tail;
    u32 cylinders = 0, heads = 0, sectors = 0;
  };
  virtual std::vector<BootEntry> boot_entries() const { return {}; }

  // `info NAME` text of this device, if it has any; `info qtree` extra lines.
  virtual std::string describe() const { return {}; }

 protected:
  Device() = default;
  // May fail and then leaves nothing behind. The base class undoes what map() and friends did.
  virtual Result<> realize() { return {}; }
  virtual Task<> unrealize() { co_return Result<>{}; }
  // Registers regions and lines for the board.
  Result<> map(memory::MemoryRegion& region) { return regions_.push_back(&region), Result<>{}; }
  Result<> map(Irq& irq) { return irqs_.push_back(&irq), Result<>{}; }
  template <class A, class... Rest>
    requires(sizeof...(Rest) > 0)
  Result<> map(A& first, Rest&... rest) {
    TRY(map(first));
    return map(rest...);
  }
  // Regions that this device placed itself and that must leave with it.
  void place(memory::MemoryRegion& container, u64 at, memory::MemoryRegion& region, int priority = 0);

 private:
  friend class Bus;
  void undo_realize();
  Result<> boot_indexes_free() const;
  mutable vm::Machine* machine_ = nullptr;  // found on first use: the way up the tree is long, and timers ask often
  bool realized_ = false;
  Bus* bus_ = nullptr;
  std::string id_;
  std::vector<Bus*> buses_;
  std::vector<memory::MemoryRegion*> regions_;
  std::vector<Irq*> irqs_;
  std::vector<std::pair<memory::MemoryRegion*, memory::MemoryRegion*>> placed_;
};

// Makes a device of a type by name, sets the properties (Value of kind object), adds it to the tree under
// /machine/peripheral/ID or /machine/peripheral-anon/device[N] (or /machine/unattached for boards), and attaches it. What `-device` does.
struct DeviceSpec {
  std::string driver, id, bus;
  Value properties = Value::object();
  enum class Place { peripheral, unattached } place = Place::peripheral;
};
Result<Ref<Device>> create_device(vm::Machine& machine, const DeviceSpec& spec);
// The usual call of a board: of a class, with an optional bus.
template <class T>
Ref<T> make_device(vm::Machine& machine, std::string name = "device[*]") {
  Ref<T> d = make_object<T>();
  machine.unattached().add_child(std::move(name), d);
  return d;
}
// Finds a bus by path or name ("pci.0", "isa.0", an id); null if absent.
Bus* find_bus(vm::Machine& machine, std::string_view name);
// First bus of a type with room.
Bus* find_bus_of_type(vm::Machine& machine, std::string_view bus_type);
// Every device below an object, depth first.
void for_each_device(Object& root, const std::function<void(Device&)>& visit);
std::string describe_qtree(vm::Machine& machine);
// The device's firmware path: the nodes from the root down, each with its slash.
std::string firmware_path(const Device& device);
// Everything with a bootindex, best first.
struct BootPath {
  std::string path;
  Device::BootEntry entry;
};
std::vector<BootPath> boot_paths(vm::Machine& machine);

}  // namespace vmm::hw

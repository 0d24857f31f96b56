// Life of devices and buses (style.md, "Objects and devices").
#include "hw/core/device.h"
#include "hw/core/cpu_plug.h"

#include <algorithm>

#include "src/base/log.h"
#include "src/control/command.h"

namespace vmm::hw {

namespace {
constexpr control::EventInfo device_deleted{.name = "DEVICE_DELETED", .doc = "A device has left the machine and its id is free again."};
control::RegisteredEvent registered_deleted{device_deleted};
}  // namespace

constinit const TypeInfo Bus::type{.name = "bus", .doc = "A place that devices plug into.", .parent = &Object::type};
constinit const TypeInfo Device::type{.name = "device", .doc = "Anything that a guest can see.", .parent = &Object::type};
static Registered registered_bus{Bus::type};
static Registered registered_device{Device::type};

Device::~Device() = default;

void tell_device_deleted(const std::string& id, const std::string& path) {
  Value data = Value::object();
  if (!id.empty()) data.set("device", id);
  data.set("path", path);
  control::emit(device_deleted, std::move(data));
}

vm::Machine& Device::machine() const {
  if (!machine_) machine_ = const_cast<Device*>(this)->ancestor<vm::Machine>();
  ASSERT(machine_);
  return *machine_;
}

Result<> Device::attach(Bus* bus) {
  ASSERT(!realized_ && !bus_);
  if (bus) {
    TRY(bus->may_plug(*this));
    bus_ = bus;
    bus->devices_.push_back(this);
    if (auto plugged = bus->plugged(*this); !plugged) {
      std::erase(bus->devices_, this);
      bus_ = nullptr;
      return plugged;
    }
  }
  memory::Transaction transaction;
  auto done = realize();
  if (done) {
    realized_ = true;
    done = boot_indexes_free();
  }
  if (!done) {
    realized_ = false;
    undo_realize();
    if (bus_) {
      bus_->unplugged(*this);
      std::erase(bus_->devices_, this);
      bus_ = nullptr;
    }
  }
  return done;
}

// No other device may have the same place in the order of booting.
Result<> Device::boot_indexes_free() const {
  const auto mine = boot_entries();
  if (mine.empty()) return {};
  std::optional<i32> taken;
  for_each_device(machine(), [&](Device& other) {
    if (&other == this || !other.realized()) return;
    for (const auto& theirs : other.boot_entries())
      for (const auto& entry : mine)
        if (entry.index >= 0 && entry.index == theirs.index) taken = entry.index;
  });
  if (taken) return fail("The bootindex {} has already been used", *taken);
  return {};
}

void Device::undo_realize() {
  memory::Transaction transaction;
  for (auto it = placed_.rbegin(); it != placed_.rend(); ++it)
    if (it->second->container() == it->first) it->first->remove(*it->second);
  placed_.clear();
  // Regions that a board placed leave as well: a dead device must not be reachable.
  for (auto* region : regions_)
    if (region->container()) region->container()->remove(*region);
  regions_.clear();
  for (auto* irq : irqs_) {
    if (irq->level()) irq->lower();
    irq->disconnect();
  }
  irqs_.clear();
}

Task<> Device::detach() {
  const Ref<Device> keep{this};
  const std::string path = this->path();
  if (realized_) {
    for (auto* bus : buses_) {
      while (!bus->devices_.empty()) {
        const Ref<Device> last{bus->devices_.back()};
        co_await last->detach();
      }
    }
    co_await unrealize();
    undo_realize();
    realized_ = false;
  }
  if (bus_) {
    bus_->unplugged(*this);
    std::erase(bus_->devices_, this);
    bus_ = nullptr;
  }
  if (parent()) parent()->remove_child(*this);
  machine_ = nullptr;
  tell_device_deleted(id_, path);
  co_return Result<>{};
}

void Device::place(memory::MemoryRegion& container, u64 at, memory::MemoryRegion& region, int priority) {
  container.add(region, at, priority);
  placed_.emplace_back(&container, &region);
}

void Device::add_bus(std::string name, Ref<Bus> bus) {
  buses_.push_back(bus.get());
  add_child(std::move(name), bus);
}

namespace {
// Children by bus and by tree, each device once: a device on a bus is often a child of /machine/unattached, not of the bus.
void collect(Device& device, std::vector<Device*>& all) {
  if (std::ranges::find(all, &device) != all.end()) return;
  all.push_back(&device);
  for (auto* bus : device.buses())
    for (auto* child : bus->devices()) collect(*child, all);
  for (const auto& child : device.children())
    if (auto* d = object_cast<Device>(child.get())) collect(*d, all);
}
}  // namespace

void Device::reset_tree() {
  std::vector<Device*> all;
  collect(*this, all);
  for (auto* d : all)
    if (d->realized_) d->reset();
  for (auto* d : all)
    if (d->realized_) d->settle();
}

void for_each_device(Object& root, const std::function<void(Device&)>& visit) {
  if (auto* device = object_cast<Device>(&root)) visit(*device);
  for (usize i = 0; i < root.children().size(); i++) {  // by index: a visitor may add children
    const Ref<Object> child = root.children()[i];
    for_each_device(*child, visit);
  }
}

// --- State -----------------------------------------------------------------------------------------------------------------------
Value Device::save() const {
  const_cast<Device*>(this)->before_save();
  std::vector<const TypeInfo*> chain;
  for (const TypeInfo* t = &type_info(); t; t = t->parent) chain.insert(chain.begin(), t);
  Value state = Value::object();
  for (const auto* t : chain)
    for (const Field& f : t->state) {
      const void* root = static_cast<const Object*>(this);
      if (f.options.needed && !f.options.needed(root)) continue;
      state.set(std::string{f.name}, f.get(root));
    }
  return state;
}

Result<> Device::load(const Value& state) {
  if (!state.is_object()) return fail("state of '{}' is not an object", type_info().name);
  std::vector<const TypeInfo*> chain;
  for (const TypeInfo* t = &type_info(); t; t = t->parent) chain.insert(chain.begin(), t);
  usize known = 0;
  for (const auto* t : chain)
    for (const Field& f : t->state) {
      const Value* value = state.find(f.name);
      if (!value) {  // from an older version, or not needed there: the reset value stands
        if (f.options.since > 1 || f.options.needed) continue;
        return fail("state of '{}' lacks '{}'", type_info().name, f.name);
      }
      known++;
      if (auto done = f.set(static_cast<Object*>(this), *value, f); !done)
        return std::unexpected(std::move(done.error()).within(format("state of '{}'", type_info().name)));
      if (f.options.check) TRY(f.options.check(static_cast<Object*>(this)));
    }
  if (known != state.members().size()) return fail("state of '{}' has members that this version does not know", type_info().name);
  return after_load();
}

}  // namespace vmm::hw

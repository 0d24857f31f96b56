// Devices as sections of the machine's state (src/vm/state.h).
#include <algorithm>

#include "hw/core/device.h"
#include "src/vm/state.h"

namespace vmm::hw {

namespace {

void add_devices(vm::Machine& machine, vm::StateSections& out) {
  std::vector<Ref<Device>> devices;
  for_each_device(machine, [&](Device& d) {
    if (d.realized()) devices.emplace_back(&d);
  });
  std::ranges::stable_sort(devices, {}, [](const Ref<Device>& d) { return d->type_info().load_order; });
  for (const Ref<Device>& d : devices)
    out.sections.push_back({d->path(), [d] { return Value::object().set("type", d->type_info().name).set("state", d->save()); },
                            [d](const Value& v) -> Result<> {
                              const Value *type = v.find("type"), *state = v.find("state");
                              if (!type || !type->is_string() || type->get_string() != d->type_info().name)
                                return fail("here it is a {}, there a {}", d->type_info().name,
                                            type && type->is_string() ? type->get_string() : std::string{"?"});
                              if (!state) return fail("'state' is missing");
                              return d->load(*state);
                            }});
  // Lines follow from the state of who drives them: once everybody has his own.
  out.afterwards.push_back([devices] {
    for (const Ref<Device>& d : devices) d->settle();
  });
}
const vm::RegisteredStateSource registered{50, add_devices};

}  // namespace
}  // namespace vmm::hw

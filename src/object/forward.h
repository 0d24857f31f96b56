// Properties of a child that are the object's own as well: virtio-blk-pci shows those of its "virtio-backend". Said once a type, before
// any object of it is made; get, set, introspection and -global then work by either name.
#pragma once

#include "src/object/object.h"

namespace vmm {

// Every object of `type` has a child `name` of `child_type` from its making on.
void forward_properties(const TypeInfo& type, const TypeInfo& child_type, std::string_view name);

}  // namespace vmm

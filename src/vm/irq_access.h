// Interrupt lines of a board for tests (qtest): listening at them and driving them by hand. Boards that allow it derive from this. Machine
// lock held.
#pragma once

#include <functional>
#include <string_view>

#include "src/object/object.h"

namespace vmm::vm {

class IrqAccess {
 public:
  virtual ~IrqAccess() = default;
  // From now on `told` hears of the inputs or outputs of a device, and nobody else does.
  virtual Result<> intercept(Object& device, bool inputs, std::function<void(unsigned line, bool level)> told) = 0;
  virtual Result<> set_input(Object& device, std::string_view name, unsigned line, bool level) = 0;
};

}  // namespace vmm::vm

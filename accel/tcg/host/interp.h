// The interpreter (E0): executes a block in portable form on exact state. Oracle of the other engines, and their slow path.
#pragma once

#include "accel/tcg/guest/guest_ops.h"
#include "accel/tcg/ir/block.h"

namespace vmm::tcg {

// Runs the block once, from *g.ip, which must be the address the block begins at. Afterwards *g.ip is where to go on, or with g.fault
// set, the faulting instruction. The block is in Form::portable. Clears g.leave.
// A block that jumps back to its own start is run up to `loops` times more, while the poll word allows.
ir::ExitReason interpret(GuestCpu& g, const ir::Block& block, unsigned loops = 0);

}  // namespace vmm::tcg

// What the board itself remembers, beside its devices, as a section of the machine's state: the A20 gate, where the last of two writers
// wins, and the wiring of the coprocessor's error (SDM 1 appendix D.2.1.2).
#include "hw/machine/pc_board.h"
#include "src/vm/state.h"

namespace vmm {
namespace hw {
namespace {
struct BoardState {
  bool a20 = true, ferr = false, ignne = false;
};
}  // namespace
}  // namespace hw
template <>
inline constexpr std::array fields<hw::BoardState> = {
    field<&hw::BoardState::a20>("a20", "bit 20 of addresses passes"),
    field<&hw::BoardState::ferr>("ferr", "the coprocessor reports an error"),
    field<&hw::BoardState::ignne>("ignne", "and the handler has acknowledged it"),
};

namespace hw {
namespace {

void add_board(vm::Machine& machine, vm::StateSections& out) {
  auto* const board = object_cast<PcBoard>(&machine);
  if (!board) return;
  const auto state = std::make_shared<BoardState>();
  out.sections.push_back({"board",
                          [board] {
                            return Codec<BoardState>::to_value({.a20 = board->a20_gate().on(),
                                                                .ferr = board->coprocessor().ferr(),
                                                                .ignne = board->coprocessor().ignored()});
                          },
                          [state](const Value& v) { return Codec<BoardState>::from_value(*state, v, "state", {}); }});
  // After the devices have driven their lines: port 92 and the keyboard controller both drive the gate.
  out.afterwards.push_back([board, state] {
    board->a20_gate().restore(state->a20);
    board->coprocessor().restore(state->ferr, state->ignne);
  });
}
const vm::RegisteredStateSource registered{60, add_board};

}  // namespace
}  // namespace hw
}  // namespace vmm

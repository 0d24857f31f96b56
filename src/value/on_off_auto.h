// A switch with a third position: the device or board decides.
#pragma once

#include "src/value/field.h"

namespace vmm {

enum class OnOffAuto : u8 { automatic, on, off };
template <>
inline constexpr std::array enum_names<OnOffAuto> = {EnumNameOf<OnOffAuto>{OnOffAuto::automatic, "auto"},
                                                     EnumNameOf<OnOffAuto>{OnOffAuto::on, "on"},
                                                     EnumNameOf<OnOffAuto>{OnOffAuto::off, "off"}};

}  // namespace vmm

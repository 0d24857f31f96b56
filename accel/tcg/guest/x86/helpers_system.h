// Helpers of system instructions (helpers_system*.cpp, segment.cpp, events.cpp). See helpers.h.
#pragma once

#define HELPERS_SYSTEM(X)

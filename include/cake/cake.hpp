// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// All of the core. Storage and compute backends have headers of their own.
#pragma once

#include "cake/bound.hpp"
#include "cake/concepts.hpp"
#include "cake/identity.hpp"
#include "cake/kv_layout.hpp"
#include "cake/kv_presence.hpp"
#include "cake/lanes.hpp"
#include "cake/loader.hpp"
#include "cake/plan.hpp"
#include "cake/report.hpp"
#include "cake/result.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/scheduler/meet_in_the_middle.hpp"
#include "cake/session.hpp"
#include "cake/version.hpp"
